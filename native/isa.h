// Which instruction set runs: compiled in, supported by this processor, and chosen.
#pragma once

#include <string>
#include <vector>

namespace hollowbone {

enum class Isa { portable, neon, avx2, avx512 };

const char* name(Isa isa);

// Instruction sets for which kernels were compiled, the fastest first.
std::vector<Isa> compiled();

// Those of them that this processor and operating system support, the fastest first; never empty.
std::vector<Isa> available();

// The one in use: the fastest available unless `use` chose another.
Isa current();

// Choose by name. Throws std::invalid_argument, naming what would do, for an instruction set that is not available here.
void use(const std::string& isa);

}  // namespace hollowbone

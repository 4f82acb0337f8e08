// One function on several threads: the number is the caller's, and the threads outlive the call.
#pragma once

#include <cstdint>
#include <functional>

namespace hollowbone {

// Call `work(part)` once for every part in [0, parts), each part on a thread of its own, the caller's among them, and return
// when all are done. `work` must not throw. While another call is in progress, and in a thread that is itself a part, the parts
// run one after another on the calling thread: results never depend on which of the two happened.
void parallel(int parts, const std::function<void(int)>& work);

// Items [first, last) of `count` that belong to `part` of `parts`: contiguous, and of sizes that differ by one at most.
struct Range {
  std::int64_t first, last;
};
inline Range share(std::int64_t count, int part, int parts) {
  const std::int64_t size = count / parts, rest = count % parts;
  const std::int64_t first = part * size + (part < rest ? part : rest);
  return {first, first + size + (part < rest ? 1 : 0)};
}

}  // namespace hollowbone

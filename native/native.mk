# Checks of the kernels that need no Python: each builds native/tests with the same CMakeLists.txt as the package and runs it.
#   make asan   under the address and undefined-behaviour sanitizers
#   make tsan   under the thread sanitizer
#   make neon   cross-built for 64-bit Arm (g++-aarch64-linux-gnu) and run under qemu-aarch64 (qemu-user)

NATIVE_BUILD ?= build
NATIVE_CMAKE := cmake -S $(dir $(lastword $(MAKEFILE_LIST))).. -DHOLLOWBONE_PYTHON=OFF -DHOLLOWBONE_TESTS=ON
NATIVE_RUN = cmake --build $(NATIVE_BUILD)/$@ --parallel 2 && cd $(NATIVE_BUILD)/$@ && ctest --output-on-failure

.PHONY: asan tsan neon

asan:
	$(NATIVE_CMAKE) -B $(NATIVE_BUILD)/$@ -DHOLLOWBONE_SANITIZE=address,undefined
	$(NATIVE_RUN)

tsan:
	$(NATIVE_CMAKE) -B $(NATIVE_BUILD)/$@ -DHOLLOWBONE_SANITIZE=thread
	$(NATIVE_RUN)

neon:
	$(NATIVE_CMAKE) -B $(NATIVE_BUILD)/$@ -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static -DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64
	$(NATIVE_RUN)

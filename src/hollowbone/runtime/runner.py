"""The runner: everything that another machine needs in order to time and run models for hollowbone. Copy this one file.

It needs Python 3.10, numpy and onnxruntime (and `executorch`, if ExecuTorch artifacts are sent to it), imports nothing of
hollowbone, opens no socket, and runs nothing but the models that it is sent. On the other end is any command that carries
its standard input and output: `hollowbone fit ... --device "command:ssh pi python3 runner.py"`.

Protocol 1: JSON lines
----------------------

Every request is one line, an object with `do` and an `id` that comes back in the answer; every answer is one line,
`{"id": ..., "ok": true, ...}` or `{"id": ..., "ok": false, "error": "a sentence"}`. A line that is no request is answered
with `"id": null`. Nothing else is written to standard output.

| request | fields | answer |
|---|---|---|
| `hello` | `protocol` | `protocol`; refused if the two differ |
| `facts` | | `facts`: processor, cores, instruction sets, system, versions, load |
| `has` | `model` (SHA-256, hexadecimal) | `have`: whether that model was put |
| `put` | `model`, `format` (onnx or executorch), `data` (base64), `last` | chunks in order; at the last the digest must agree |
| `time` | `model`, `inputs`, `threads`, `fresh`, `clock` | `timing` |
| `time_pair` | `model`, `other`, `inputs`, `threads`, `clock` | `timings`, interleaved in one process |
| `run` | `model`, `inputs`, `threads` | `outputs` |
| `memory` | `model`, `inputs`, `threads` | `bytes`: peak resident bytes above a runtime with no model, in a fresh process |
| `bye` | | the runner ends; it also ends when its input does |

An array is `{"dtype": "float32", "shape": [1, 3, 32, 32], "data": base64 of the little-endian bytes in C order}`. A timing is
`{"median_ms", "p95_ms", "low_ms", "high_ms", "runs"}`; `clock` holds keyword arguments of `measure` below. Models are kept
in a temporary folder that goes when the runner ends.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType

import numpy as np

PROTOCOL = 1
FORMATS = {"onnx": ".onnx", "executorch": ".pte"}
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


class RunnerError(Exception):
    """What went wrong, as a sentence for the one who asked."""


# --------------------------------------------------------------------------------------------------------------- the clock


def median_ranks(n: int) -> tuple[int, int]:
    """Ranks (from 0) of the order statistics that enclose the median with at least 95% confidence.

    With k the largest rank such that P(Binomial(n, 1/2) < k) <= 2.5%, the median lies between the k-th smallest and the
    k-th largest of n independent runs with 95% or more, whatever their distribution. Fewer than 6 runs cannot give 95%:
    their smallest and largest are returned.
    """
    if n > 400:  # the normal approximation, rounded outwards, is exact to a rank from here on
        k = math.floor((n - 1.96 * math.sqrt(n)) / 2)
    else:
        tail, k, limit = 0, 0, 0.025 * 2**n
        while tail + math.comb(n, k) <= limit:
            tail += math.comb(n, k)
            k += 1
    low = max(k - 1, 0)
    return low, n - 1 - low


def summarise(nanoseconds: Sequence[int]) -> dict:
    """Median, 95th percentile (nearest rank) and the interval of the median, in milliseconds, of a list of runs."""
    ms = np.sort(np.asarray(nanoseconds, dtype=np.float64)) / 1e6
    low, high = median_ranks(len(ms))
    return {
        "median_ms": float(np.median(ms)),
        "p95_ms": float(ms[math.ceil(0.95 * len(ms)) - 1]),
        "low_ms": float(ms[low]),
        "high_ms": float(ms[high]),
        "runs": len(ms),
    }


def _is_tight(timing: dict, rel_interval: float) -> bool:
    middle = timing["median_ms"]
    return max(timing["high_ms"] - middle, middle - timing["low_ms"]) <= rel_interval * middle


def _block(fn: Callable[[], object], count: int, clock: Callable[[], int], runs: list[int]) -> None:
    """Append the duration of `count` calls; two readings of the clock (some 0.1 microseconds) are all that is added."""
    for _ in range(count):
        start = clock()
        fn()
        runs.append(clock() - start)


def measure(
    fns: Iterable[Callable[[], object]],
    *,
    warmup_seconds: float = 0.05,
    min_runs: int = 30,
    min_seconds: float = 0.05,
    max_seconds: float = 2.0,
    rel_interval: float = 0.02,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[dict]:
    """Time functions of no arguments in turn (A B A B ...), every call by itself; one timing (see `summarise`) for each.

    Ends when the interval of every median lies within `rel_interval` of it, after at least `min_runs` runs and
    `min_seconds` of each (a burst of 30 short runs would time one moment of the machine), or after `max_seconds` for each.
    The collector of garbage is off meanwhile. With several functions a block lasts about 5 ms, so that drift falls on all
    alike; the order within a round is turned by the Thue-Morse sequence (AB BA BA AB ...), so that what recurs in the
    rhythm of the blocks, such as a scheduler's slices, does not always meet the same one; and the first call of a block,
    which finds the other's data in the caches, is not counted.
    """
    fns = list(fns)
    estimates = []
    for fn in fns:
        until = clock() + warmup_seconds * 1e9
        fn()
        while True:
            start = clock()
            fn()
            end = clock()
            if end >= until:
                break
        estimates.append(max(end - start, 1))
    discard = [len(fns) > 1 and estimate < 20e6 for estimate in estimates]  # beyond 20 ms cold caches no longer show
    counts = [max(math.ceil(5e6 / estimate), 3 if drop else 1) for estimate, drop in zip(estimates, discard, strict=True)]
    runs: list[list[int]] = [[] for _ in fns]
    check_at = rounds = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        begin = clock()
        while True:
            arms = list(zip(fns, counts, discard, runs, strict=True))
            for fn, count, drop, mine in arms if rounds.bit_count() % 2 == 0 else arms[::-1]:
                if drop:
                    fn()
                _block(fn, count, clock, mine)
            rounds += 1
            elapsed = (clock() - begin) / 1e9 / len(fns)
            fewest = min(map(len, runs))
            if elapsed >= max_seconds:
                return [summarise(r) for r in runs]
            if fewest >= max(min_runs, check_at) and elapsed >= min_seconds:
                timings = [summarise(r) for r in runs]
                if all(_is_tight(t, rel_interval) for t in timings):
                    return timings
                check_at = math.ceil(fewest * 1.2)  # sorting after every block would cost more than the runs
    finally:
        if collecting:
            gc.enable()


# ------------------------------------------------------------------------------------------------------------- the runtimes


def onnx_options(threads: int) -> object:
    """How every ONNX session of hollowbone runs: all graph optimisations, `threads` inside an operator, one operator at a time.

    Workers may spin while a call runs (that is what makes several threads pay in small operators) but stop when it
    returns: otherwise the idle workers of one session would take the cores from whatever is timed next, and a network
    called back to back would look faster than one that is called when a picture arrives. One thread has no workers.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if threads > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class OnnxModel:
    """A file in onnxruntime's CPU provider."""

    def __init__(self, path: str | os.PathLike[str], threads: int) -> None:
        import onnxruntime as ort

        try:
            self._session = ort.InferenceSession(str(path), onnx_options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen kinds that share no base
            reason = str(error).strip().splitlines()[0]
            raise RunnerError(
                f"{os.path.basename(path)} is no ONNX model that onnxruntime {ort.__version__} can load: {reason}"
            ) from error
        self.inputs = [self._spec(value) for value in self._session.get_inputs()]
        self.outputs = [self._spec(value) for value in self._session.get_outputs()]
        self._names = [value.name for value in self._session.get_outputs()]

    def _spec(self, value) -> dict:
        dtype = {"tensor(float)": "float32", "tensor(double)": "float64"}.get(value.type) or value.type[len("tensor(") : -1]
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        return {"name": value.name, "shape": shape, "dtype": dtype}

    def bind(self, inputs: Sequence[np.ndarray]) -> Callable[[], Sequence]:
        """A function of no arguments that runs the model on these arrays."""
        check_inputs(inputs, self.inputs)
        feed = {spec["name"]: array for spec, array in zip(self.inputs, inputs, strict=True)}
        run, names = self._session.run, self._names
        return lambda: run(names, feed)

    def read(self, outputs: Sequence) -> list[np.ndarray]:
        """What a bound call returned, as arrays."""
        return [np.asarray(output) for output in outputs]


@contextlib.contextmanager
def _muted_stderr() -> Iterator[None]:
    """Standard error closed for native code as well."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def executorch_bindings() -> ModuleType:
    """ExecuTorch's native runtime, which needs torch's libraries loaded.

    Its Python wrapper `executorch.runtime` is passed by: importing that imports the exporter too, three times as long and
    none of it the runtime's.
    """
    try:
        import torch  # noqa: F401

        with _muted_stderr():
            try:
                from executorch.extension.pybindings import _C as native  # noqa: N811
            except ImportError:  # where earlier versions kept it
                from executorch.extension.pybindings import portable_lib as native
    except ImportError as error:
        raise RunnerError("executorch is not installed there; install it with: pip install executorch") from error
    return native


class ExecutorchModel:
    """A `.pte` file in ExecuTorch's own runtime. Its thread pool belongs to the process: the last `threads` holds."""

    def __init__(self, path: str | os.PathLike[str], threads: int) -> None:
        native = executorch_bindings()
        with _muted_stderr():  # the pool announces every change there
            if native._threadpool_get_thread_count() != threads:
                native._unsafe_reset_threadpool(threads)
            try:
                self._program = native._load_for_executorch(str(path))
                meta = self._program.method_meta("forward")
            except Exception as error:  # its own kinds share no base
                reason = str(error).strip().splitlines()[0]
                raise RunnerError(f"{os.path.basename(path)} is no ExecuTorch program that can be loaded: {reason}") from error
        self.inputs = [self._spec(f"input_{i}", meta.input_tensor_meta(i)) for i in range(meta.num_inputs())]
        self.outputs = [self._spec(f"output_{i}", meta.output_tensor_meta(i)) for i in range(meta.num_outputs())]

    def _spec(self, name: str, info) -> dict:
        # executorch numbers its types as torch's ScalarType does
        types = {
            0: "uint8",
            1: "int8",
            2: "int16",
            3: "int32",
            4: "int64",
            5: "float16",
            6: "float32",
            7: "float64",
            11: "bool",
        }
        return {"name": name, "shape": tuple(info.sizes()), "dtype": types.get(info.dtype(), f"type {info.dtype()}")}

    def bind(self, inputs: Sequence[np.ndarray]) -> Callable[[], Sequence]:
        """A function of no arguments that runs the model on these arrays."""
        import torch

        check_inputs(inputs, self.inputs)
        tensors = [torch.from_numpy(np.asarray(array, order="C")) for array in inputs]
        forward = self._program.forward
        return lambda: forward(tensors)

    def read(self, outputs: Sequence) -> list[np.ndarray]:
        """What a bound call returned, as arrays."""
        return [output.numpy() for output in outputs]


MODELS: dict[str, type[OnnxModel] | type[ExecutorchModel]] = {"onnx": OnnxModel, "executorch": ExecutorchModel}


def check_inputs(inputs: Sequence[np.ndarray], specs: Sequence[Mapping]) -> None:
    """Raise a `RunnerError` unless the arrays are what the model takes."""
    if len(inputs) != len(specs):
        raise RunnerError(
            f"the model takes {len(specs)} inputs ({', '.join(s['name'] for s in specs)}), {len(inputs)} were given"
        )
    for array, spec in zip(inputs, specs, strict=True):
        wanted, given = spec["shape"], array.shape
        fits = len(wanted) == len(given) and all(w is None or w == g for w, g in zip(wanted, given, strict=True))
        if not fits or str(array.dtype) != spec["dtype"]:
            shape = "(" + ", ".join("any" if w is None else str(w) for w in wanted) + ")"
            raise RunnerError(
                f"input {spec['name']!r} must be {spec['dtype']} of shape {shape}, not {array.dtype} of shape {given}"
            )


# --------------------------------------------------------------------------------------------------------------- the facts


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


_X86 = "sse4_2 avx avx2 fma f16c avx512f avx512bw avx512vl avx512_vnni avx_vnni avx512_bf16 avx512_fp16 amx_int8 amx_bf16"
_ARM = "neon asimd asimddp fphp asimdhp i8mm bf16 sve sve2"
VECTOR_FLAGS = tuple(f"{_X86} {_ARM}".split())
"""Instruction sets on which the speed of a kernel depends, as /proc/cpuinfo calls them."""


def facts() -> dict:
    """What this machine is, as plain JSON: everything on which a timing may depend, and the load of the moment."""
    import onnxruntime

    cpuinfo: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        cpuinfo.setdefault(key.strip().lower(), value.strip())
    board = _read("/proc/device-tree/model").strip("\0\n ")
    flags = (cpuinfo.get("flags") or cpuinfo.get("features") or "").split()
    return {
        "processor": cpuinfo.get("model name")
        or board
        or cpuinfo.get("hardware")
        or platform.processor()
        or platform.machine(),
        "machine": platform.machine(),
        "cores": usable_cores(),
        "flags": [flag for flag in VECTOR_FLAGS if flag in flags],
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


# -------------------------------------------------------------------------------------------------------------- the memory


def _resident_bytes(key: str) -> int:
    """`VmRSS` (now) or `VmHWM` (the peak) of this process; 0 where the system has no /proc."""
    for line in _read("/proc/self/status").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def added_memory(load_and_run: Callable[[], object]) -> int:
    """Peak resident bytes that the call adds to this process as it is now; meant for a process that does nothing else.

    Linux's `ru_maxrss` is inherited from the parent at exec, so the peak is taken from /proc, after setting it back to the
    present; elsewhere `ru_maxrss` is all there is.
    """
    gc.collect()
    if not _resident_bytes("VmHWM"):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        load_and_run()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    try:
        with open("/proc/self/clear_refs", "w") as handle:
            handle.write("5")
        before = _resident_bytes("VmRSS")
    except OSError:  # not permitted: the peak of the imports stays, and what is added above it is counted
        before = _resident_bytes("VmHWM")
    load_and_run()
    return max(_resident_bytes("VmHWM") - before, 0)


# ------------------------------------------------------------------------------------------------------------- the protocol


def pack(array: np.ndarray) -> dict:
    """An array as JSON."""
    array = np.asarray(array, order="C")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": base64.b64encode(little.tobytes()).decode("ascii")}


def unpack(value: Mapping) -> np.ndarray:
    """The inverse of `pack`; a `RunnerError` if it is none."""
    try:
        dtype, shape, data = (
            value["dtype"],
            [int(size) for size in value["shape"]],
            base64.b64decode(value["data"], validate=True),
        )
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not among {', '.join(DTYPES)}")
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise RunnerError(f"an input is no array of the protocol: {error}") from error


class Runner:
    """Answers requests; `store` is the folder of models, which fresh processes of the runner read as well."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._partial: dict = {}

    def answer(self, request: dict) -> dict:
        """The answer to one request, without `id` and `ok`; raises `RunnerError`."""
        actions = {
            "hello": self._hello,
            "facts": lambda request: {"facts": facts()},
            "has": lambda request: {"have": self._find(request) is not None},
            "put": self._put,
            "time": self._time,
            "time_pair": self._time_pair,
            "run": self._run,
            "memory": self._memory,
        }
        action = actions.get(str(request.get("do")))
        if action is None:
            raise RunnerError(f"there is no request {request.get('do')!r}; known are {', '.join(actions)}, bye")
        try:
            return action(request)
        except RunnerError:
            raise
        except KeyError as error:
            raise RunnerError(f"the request {request['do']!r} lacks the field {error}") from error
        except Exception as error:  # the runtime's own failures: the runner lives on and says what it was told
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RunnerError(f"{request['do']} failed: {reason}") from error

    def _hello(self, request: dict) -> dict:
        if request["protocol"] != PROTOCOL:
            raise RunnerError(
                f"this runner speaks protocol {PROTOCOL}, not {request['protocol']}; copy the runner.py of your hollowbone"
            )
        return {"protocol": PROTOCOL}

    def _file(self, digest: object, suffix: str) -> str:
        if not (isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
            raise RunnerError("a model is named by its SHA-256 in 64 small hexadecimal digits")
        return os.path.join(self._store, digest + suffix)

    def _find(self, request: dict, field: str = "model") -> tuple[str, str] | None:
        for name, suffix in FORMATS.items():
            path = self._file(request[field], suffix)
            if os.path.exists(path):
                return name, path
        return None

    def _put(self, request: dict) -> dict:
        if request["format"] not in FORMATS:
            raise RunnerError(f"this runner runs {' and '.join(FORMATS)}, not {request['format']!r}")
        digest, path = request["model"], self._file(request["model"], FORMATS[request["format"]])
        partial = path + ".part"
        sha = self._partial.setdefault(digest, hashlib.sha256())
        try:
            data = base64.b64decode(request["data"], validate=True)
            sha.update(data)
            if request["last"] and sha.hexdigest() != digest:
                raise ValueError("what arrived has another SHA-256 than announced")
            with open(partial, "ab") as handle:
                handle.write(data)
        except (ValueError, OSError) as error:
            del self._partial[digest]
            if os.path.exists(partial):
                os.remove(partial)
            raise RunnerError(f"the model was not stored: {error}") from error
        if request["last"]:
            os.replace(partial, path)
            del self._partial[digest]
        return {}

    def _open(self, request: dict, field: str = "model") -> OnnxModel | ExecutorchModel:
        found = self._find(request, field)
        if found is None:
            raise RunnerError(f"the model {request[field][:12]}… was not put")
        name, path = found
        threads = request.get("threads", 1)
        if not isinstance(threads, int) or threads < 1:
            raise RunnerError(f"threads must be 1 or more, not {threads!r}")
        return MODELS[name](path, threads)

    def _inputs(self, request: dict) -> list[np.ndarray]:
        return [unpack(value) for value in request["inputs"]]

    def _time(self, request: dict) -> dict:
        if request.get("fresh"):
            return self._in_fresh_process({**request, "fresh": False})
        return {"timing": measure([self._open(request).bind(self._inputs(request))], **request.get("clock", {}))[0]}

    def _time_pair(self, request: dict) -> dict:
        inputs = self._inputs(request)
        fns = [self._open(request, field).bind(inputs) for field in ("model", "other")]
        return {"timings": measure(fns, **request.get("clock", {}))}

    def _run(self, request: dict) -> dict:
        model = self._open(request)
        return {"outputs": [pack(output) for output in model.read(model.bind(self._inputs(request))())]}

    def _memory(self, request: dict) -> dict:
        if not request.get("bare"):
            return self._in_fresh_process({**request, "bare": True})
        found = self._find(request)
        if found and found[0] == "executorch":
            executorch_bindings()  # its own weight is the runtime's, not the model's
        else:
            import onnxruntime  # noqa: F401
        inputs = self._inputs(request)
        return {"bytes": added_memory(lambda: self._open(request).bind(inputs)())}

    def _in_fresh_process(self, request: dict) -> dict:
        """Let a new process of this file answer; it shares the folder of models."""
        command = [sys.executable, os.path.abspath(__file__), "--store", self._store]
        done = subprocess.run(command, input=json.dumps(request) + "\n", capture_output=True, text=True, check=False)
        try:
            answer = json.loads(done.stdout)
        except ValueError as error:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise RunnerError(f"the fresh process ended with code {done.returncode}: {last}") from error
        if not answer.pop("ok"):
            raise RunnerError(answer["error"])
        answer.pop("id")
        return answer


def serve(lines: Iterable[str], write: Callable[[str], None], runner: Runner) -> None:
    """Answer every line until `bye` or the end of input."""
    for line in lines:
        if not line.strip():
            continue
        number = None
        try:
            try:
                request = json.loads(line)
                number = request.get("id")
            except (ValueError, AttributeError) as error:
                raise RunnerError("a request is one JSON object on one line") from error
            if request.get("do") == "bye":
                write(json.dumps({"id": number, "ok": True}))
                return
            answer = {"id": number, "ok": True, **runner.answer(request)}
        except RunnerError as error:
            answer = {"id": number, "ok": False, "error": str(error)}
        write(json.dumps(answer))


def main(arguments: list[str]) -> None:
    """Serve standard input; `--store FOLDER` is how the runner calls itself."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a runtime prints goes to standard error, never between the answers

    def write(line: str) -> None:
        answers.write(line + "\n")
        answers.flush()

    given = arguments[1] if arguments[:1] == ["--store"] and len(arguments) == 2 else None
    store = given or tempfile.mkdtemp(prefix="hollowbone-runner-")
    try:
        serve(sys.stdin, write, Runner(store))
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    finally:
        if given is None:
            shutil.rmtree(store, ignore_errors=True)


if __name__ == "__main__":
    # Python puts this file's folder first on its path; beside it may lie files named like the runtimes (onnx.py).
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    main(sys.argv[1:])

"""A GPU that is not there, strict about the rules of the one that is.

`StrictDriver` stands in for `cuda.bindings.driver`, and in `strict_tensorrt` are TensorRT's module and its objects,
whose networks are computed by ONNX Runtime. Memory is on the host, NaN until written, work is done when somebody waits
for it. Broken rules raise `RuleBroken` and stay in `driver.broken`, also where somebody swallows them:

    no launch, wait, allocation or release by any thread while a stream captures, but for what the capture is of;
    the GPU's context is current in the thread that calls;
    addresses lie in memory that is there, at multiples of 256 where TensorRT uses them;
    graphs are gone before the contexts they run, contexts before their engine, all three before memory they use;
    contexts get shapes of one profile, memory as large as they need, every address, and one run before a capture;
    TensorRT-RTX compiles eagerly, is asked whether it can be captured, and was told who allocates.
"""

from __future__ import annotations

import bisect
import ctypes
import enum
import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

ALIGNED = 256


class RuleBroken(AssertionError):
    """A rule of the device or of TensorRT was broken."""


class Status(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


@dataclass
class Work:
    """Something queued. uses: addresses of the memory that it needs; life: of the context that it runs."""

    run: object
    uses: tuple[int, ...] = ()
    life: object = None


@dataclass
class Stream:
    priority: int
    queue: list[Work] = field(default_factory=list)
    recording: list[Work] | None = None
    thread: int = 0
    lock: object = field(default_factory=threading.Lock)
    held: object = field(default_factory=threading.Event)  # set: its work does not come to an end
    go_on: object = field(default_factory=threading.Event)


class StrictDriver:
    """The functions of `cuda.bindings.driver` that the project calls, on no device.

    used: bytes of device memory given out; peak: the most; calls: how often each function was called.
    """

    CUresult = Status
    CUstream_flags = enum.IntEnum("CUstream_flags", {"CU_STREAM_NON_BLOCKING": 1})
    CUevent_flags = enum.IntEnum("CUevent_flags", {"CU_EVENT_BLOCKING_SYNC": 1, "CU_EVENT_DISABLE_TIMING": 2})
    CUstreamCaptureMode = enum.IntEnum("CUstreamCaptureMode", {"CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1})
    CUdevice_attribute = enum.IntEnum(
        "CUdevice_attribute",
        {"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75, "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76},
    )

    def __init__(self, capability=(8, 6), name="Strict GPU", room=1 << 40):
        self.capability, self.name, self.room = capability, name, room
        self.broken, self.calls = [], Counter()
        self.jitter = 0.0  # s that every call takes, for others to come in between
        self.memory, self.pinned, self.streams, self.events, self.graphs, self.runs = {}, {}, {}, {}, {}, {}
        self.contexts = 0
        self.fail_next = {}  # function -> status to fail with, once
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._starts = []  # of all blocks, in order
        self._current = threading.local()

    # What tests look at

    @property
    def used(self):
        return sum(array.nbytes for array, _ in self.memory.values())

    @property
    def empty(self):
        """Whether everything was given back."""
        return not (self.memory or self.pinned or self.streams or self.events or self.graphs or self.contexts)

    def break_rule(self, text):
        self.broken.append(text)
        raise RuleBroken(text)

    def capturing(self):
        return next((stream for stream in self.streams.values() if stream.recording is not None), None)

    def enter(self, name, stream=None, needs_context=True):
        """Every function passes here: whether it may be called now, by this thread."""
        with self._lock:
            self.calls[name] += 1
            if needs_context and not getattr(self._current, "context", False):
                self.break_rule(f"{name} by a thread in which the GPU's context is not current")
            busy = self.capturing()
            if busy is not None and not (stream is busy and busy.thread == threading.get_ident()):
                self.break_rule(f"{name} by thread {threading.get_ident()} while another stream or thread captures")
        if self.jitter:
            time.sleep(self.jitter)

    def queue(self, name, stream, work):
        self.enter(name, stream)
        with self._lock:
            for address in work.uses:
                self.check_address(name, address)
            if stream.recording is not None:
                stream.recording.append(work)
            else:
                stream.queue.append(work)

    def check_address(self, name, address, size=1):
        with self._lock:
            place = bisect.bisect_right(self._starts, address) - 1
            start = self._starts[place] if place >= 0 else 0
            block = self.memory.get(start) or self.pinned.get(start)
        if block is None or address + size > start + block[0].nbytes:
            self.break_rule(f"{name} uses memory at {address:#x} that is not there")

    def finish(self, stream):
        """Do what is queued."""
        with stream.lock:
            work, stream.queue = stream.queue, []
            for one in work:
                one.run()

    # Functions of the driver

    def _ok(self, *values):
        return (Status.CUDA_SUCCESS, *values)

    def _failing(self, name):
        status = self.fail_next.pop(name, None)
        return None if status is None else (status, None)

    def cuInit(self, flags):
        return self._ok()

    def cuGetErrorName(self, status):
        return self._ok(Status(status).name.encode())

    def cuDeviceGet(self, ordinal):
        return self._ok(0)

    def cuDeviceGetName(self, length, device):
        return self._ok(self.name.encode() + b"\0")

    def cuDeviceGetAttribute(self, attribute, device):
        return self._ok(self.capability[int(attribute) - 75])

    def cuDevicePrimaryCtxRetain(self, device):
        self.contexts += 1
        return self._ok(77)

    def cuDevicePrimaryCtxRelease(self, device):
        self.enter("cuDevicePrimaryCtxRelease")
        self.contexts -= 1
        return self._ok()

    def cuCtxSetCurrent(self, context):
        self._current.context = True
        return self._ok()

    def cuCtxGetStreamPriorityRange(self):
        self.enter("cuCtxGetStreamPriorityRange")
        return self._ok(0, -5)

    def cuStreamCreateWithPriority(self, flags, priority):
        self.enter("cuStreamCreateWithPriority")
        handle = next(self._ids)
        self.streams[handle] = Stream(priority)
        return self._ok(handle)

    def cuStreamDestroy(self, handle):
        self.enter("cuStreamDestroy")
        if self.streams.pop(handle).queue:
            self.break_rule("a stream is destroyed with work on it")
        return self._ok()

    def cuMemAlloc(self, size):
        self.enter("cuMemAlloc")
        if failure := self._failing("cuMemAlloc"):
            return failure
        if self.used + size > self.room:
            return Status.CUDA_ERROR_OUT_OF_MEMORY, None
        return self._ok(self._allocate(self.memory, size))

    def cuMemAllocHost(self, size):
        self.enter("cuMemAllocHost")
        return self._ok(self._allocate(self.pinned, size))

    def _allocate(self, where, size):
        with self._lock:
            array = np.full(-(-size // 4) + ALIGNED // 4, np.nan, np.float32)
            address = array.ctypes.data + -array.ctypes.data % ALIGNED
            usable = np.frombuffer((ctypes.c_char * size).from_address(address), np.uint8)
            where[address] = usable, array
            bisect.insort(self._starts, address)
            return address

    def cuMemFree(self, address):
        self._free("cuMemFree", self.memory, address)
        return self._ok()

    def cuMemFreeHost(self, address):
        self._free("cuMemFreeHost", self.pinned, address)
        return self._ok()

    def _free(self, name, where, address):
        self.enter(name)
        with self._lock:
            if address not in where:
                self.break_rule(f"{name} of memory that is not there")
            start, size = address, where[address][0].nbytes
            waiting = [work for stream in self.streams.values() for work in stream.queue]
            for what, works in (("a graph", itertools.chain(*self.graphs.values())), ("queued work", waiting)):
                if any(start <= used < start + size for work in works for used in work.uses):
                    self.break_rule(f"{name} of memory that {what} uses")
            del where[address]
            self._starts.remove(address)

    def cuMemcpyHtoDAsync(self, target, source, size, stream):
        self._copy("cuMemcpyHtoDAsync", target, source, size, stream, self.memory, self.pinned)
        return self._ok()

    def cuMemcpyDtoHAsync(self, target, source, size, stream):
        self._copy("cuMemcpyDtoHAsync", target, source, size, stream, self.pinned, self.memory)
        return self._ok()

    def _copy(self, name, target, source, size, stream, to, of):
        with self._lock:
            for address, where, what in ((target, to, "target"), (source, of, "source")):
                if not any(s <= address and address + size <= s + a.nbytes for s, (a, _) in where.items()):
                    self.break_rule(f"{name}: the {what} is not in memory of that kind")
        work = Work(lambda: ctypes.memmove(target, source, size), (target, source))
        self.queue(name, self.streams[stream], work)

    def cuMemsetD8Async(self, target, value, size, stream):
        self.check_address("cuMemsetD8Async", target, size)
        self.queue("cuMemsetD8Async", self.streams[stream], Work(lambda: ctypes.memset(target, value, size), (target,)))
        return self._ok()

    def cuEventCreate(self, flags):
        self.enter("cuEventCreate")
        if not flags & self.CUevent_flags.CU_EVENT_BLOCKING_SYNC:
            self.break_rule("who waits for this event spins on a core")
        handle = next(self._ids)
        self.events[handle] = None
        return self._ok(handle)

    def cuEventDestroy(self, event):
        self.enter("cuEventDestroy")
        del self.events[event]
        return self._ok()

    def cuEventRecord(self, event, stream):
        self.enter("cuEventRecord", self.streams[stream])
        self.events[event] = self.streams[stream]
        return self._ok()

    def cuEventSynchronize(self, event):
        self.enter("cuEventSynchronize")
        stream = self.events[event]
        if stream.held.is_set():
            stream.go_on.wait()
        self.finish(stream)
        return self._ok()

    def cuEventQuery(self, event):
        self.enter("cuEventQuery")
        stream = self.events[event]
        if stream.held.is_set():
            return (Status.CUDA_ERROR_NOT_READY,)
        self.finish(stream)
        return self._ok()

    def cuStreamBeginCapture(self, handle, mode):
        self.enter("cuStreamBeginCapture")
        with self._lock:
            stream = self.streams[handle]
            if stream.queue:
                self.break_rule("a capture begins on a stream with work on it")
            stream.recording, stream.thread = [], threading.get_ident()
        return self._ok()

    def cuStreamEndCapture(self, handle):
        stream = self.streams[handle]
        self.enter("cuStreamEndCapture", stream)
        with self._lock:
            recorded, stream.recording = stream.recording, None
            if any(work is None for work in recorded):
                return Status.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
            graph = next(self._ids)
            self.runs[graph] = recorded
            return self._ok(graph)

    def cuGraphInstantiate(self, graph, flags):
        self.enter("cuGraphInstantiate")
        if failure := self._failing("cuGraphInstantiate"):
            return failure
        executable = next(self._ids)
        self.graphs[executable] = self.runs[graph]
        return self._ok(executable)

    def cuGraphDestroy(self, graph):
        self.enter("cuGraphDestroy")
        del self.runs[graph]
        return self._ok()

    def cuGraphExecDestroy(self, executable):
        self.enter("cuGraphExecDestroy")
        del self.graphs[executable]
        return self._ok()

    def cuGraphLaunch(self, executable, handle):
        if executable not in self.graphs:
            self.break_rule("a graph is launched that is not there")
        stream = self.streams[handle]
        for work in self.graphs[executable]:
            self.queue("cuGraphLaunch", stream, work)
        return self._ok()

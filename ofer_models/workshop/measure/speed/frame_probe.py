"""What `frame_pipeline` runs inside a checkout, this one or an older one: frames from a file through `FacePipeline`.

Given to `python -c` in the checkout, so it imports that one's code; it uses only what every release has had.
Reads orders from stdin and answers on stdout, a line of JSON each. An order: faces, stack (path of an .npy of frames
(n, H, W, 3) uint8), frames (how many), warm_up (how many before, untimed), settings (of the pipeline, if others than
the usual are meant; the same in every order). The answer: lists of ms for each frame, `frame_ms` of all, `after_ms`
without finding faces, `cpu_ms` of the processor; faces (found, in the mean); stream_s: what as many frames took once
more as the node runs them, on two threads where the checkout has these; peak_mb.
"""

import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ofer_models.bundle.manifest import default_bundle
from ofer_models.pipeline import FacePipeline

RATE = 30


def stream(pipeline: FacePipeline, frames: list) -> None:
    """Frames (rgb, stamp) through the pipeline as fast as they go."""
    if not hasattr(pipeline, "faces"):
        for frame in frames:
            pipeline(*frame)
        return
    with ThreadPoolExecutor(1) as ahead:
        look = ahead.submit(pipeline.look, *frames[0])
        for frame in [*frames[1:], None]:
            seen = look.result()
            look = frame and ahead.submit(pipeline.look, *frame)
            pipeline.faces(seen)


def main() -> None:
    pipelines: dict = {}
    for line in sys.stdin:
        order = json.loads(line)
        count = order["faces"]
        if count not in pipelines:
            # As the node runs it: identities are drawn beside the frames.
            settings = {"max_faces": count, "background": True, "drift": 0.1, **order.get("settings", {})}
            pipelines[count] = [FacePipeline(default_bundle(), **settings), 0]
        pipeline, number = pipelines[count]
        stack = np.load(order["stack"], mmap_mode="r")
        frame_ms, after_ms, cpu_ms, found = [], [], [], []
        for _ in range(order["warm_up"] + order["frames"]):
            frame = np.array(stack[number % len(stack)])
            started, computed = time.perf_counter(), time.process_time()
            faces = pipeline(frame, number / RATE)
            for face in faces:
                pipeline.filtered_vertices(face)
            frame_ms.append(1000 * (time.perf_counter() - started))
            cpu_ms.append(1000 * (time.process_time() - computed))
            after_ms.append(frame_ms[-1] - pipeline.timings["perception"])
            found.append(len(faces))
            number += 1
        stamped = [(np.array(stack[n % len(stack)]), n / RATE) for n in range(number, number + order["frames"])]
        started = time.perf_counter()
        stream(pipeline, stamped)
        stream_s = time.perf_counter() - started
        pipelines[count][1] = number + len(stamped)
        answer = {name: values[order["warm_up"] :] for name, values in
                  (("frame_ms", frame_ms), ("after_ms", after_ms), ("cpu_ms", cpu_ms), ("found", found))}  # fmt: skip
        answer["stream_s"] = stream_s
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

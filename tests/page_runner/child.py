"""Runs one page, fence after fence, in a `__main__` module of its own.

Started by session.py in a fresh process, in a temporary folder. Reads one JSON line a fence and
answers with one JSON line; what the fence itself writes to file descriptors 1 and 2, its worker
processes included, goes into two files.
"""

import json
import os
import random
import sys
import traceback
import types


def setup(needs_torch: bool) -> dict:
    """Seed everything and say what this machine is."""
    random.seed(0)
    if not needs_torch:
        return {"device": "CPU", "kind": "cpu"}
    import numpy
    import torch
    import torchvision

    numpy.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return {
        "device": torch.get_device_module(accelerator).get_device_name() if accelerator else "CPU",
        "kind": accelerator.type if accelerator else "cpu",
        "torch": torch.__version__.partition("+")[0],
        "torchvision": torchvision.__version__.partition("+")[0],
    }


def main_module(path: str) -> types.ModuleType:
    """A `__main__` whose file holds the page's code, so that pickle, inspect and workers find it."""
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__spec__ = None
    module.__builtins__ = __builtins__
    sys.modules["__main__"] = module
    sys.argv = [path]
    return module


def relabel(error: traceback.TracebackException, path: str, places: list) -> None:
    """Make a traceback name the lines of the page and of its modules instead of the file that ran."""
    error.stack = traceback.StackSummary.from_list(f for f in error.stack if f.filename != __file__)
    for frame in error.stack:
        if frame.filename == path and frame.lineno <= len(places):
            frame.filename, frame.lineno = places[frame.lineno - 1]
    if getattr(error, "filename", None) == path and str(error.lineno).isdigit():
        error.filename, error.lineno = places[int(error.lineno) - 1]
    for inner in [error.__cause__, error.__context__, *(getattr(error, "exceptions", None) or [])]:
        if inner:
            relabel(inner, path, places)


def run(code: str, start: int, module: types.ModuleType) -> BaseException | None:
    """Execute one fence, whose first line is line `start` of the page's file."""
    try:
        exec(compile("\n" * (start - 1) + code, module.__file__, "exec", dont_inherit=True), module.__dict__)
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot and pyplot.get_fignums():
            pyplot.close("all")
            raise RuntimeError("the fence leaves a figure that it never shows: call plt.show()")
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures of the fence, too
        return error
    return None


def serve(path: str, stdout: str, stderr: str, needs_torch: bool) -> None:
    requests, replies = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    places: list[tuple[str, int]] = []
    with open(path, "w", encoding="utf-8"):
        pass
    print(json.dumps(setup(needs_torch)), file=replies, flush=True)
    module = main_module(path)
    for line in requests:
        request = json.loads(line)
        start = len(places) + 1
        places += [tuple(place) for place in request["places"]]
        with open(path, "a", encoding="utf-8") as page:
            page.write(request["code"])
        for descriptor, target in ((1, stdout), (2, stderr)):
            new = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            os.dup2(new, descriptor)
            os.close(new)
        error = run(request["code"], start, module)
        sys.stdout.flush()
        sys.stderr.flush()
        reply = {"error": None}
        if error is not None:
            report = traceback.TracebackException.from_exception(error)
            relabel(report, path, places)
            reply = {
                "error": type(error).__name__,
                "message": f"{type(error).__name__}: {error}",
                "traceback": "".join(report.format()),
            }
            error = None
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:4], needs_torch=sys.argv[4] == "torch")

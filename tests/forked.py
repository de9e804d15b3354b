"""Scripts in processes of their own, forked from one that has imported torch already.

An interpreter takes seconds to import torch, a fork takes none. What is started has its own process
id, signals and pipes; that a script starts in a fresh interpreter is shown by other tests.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["ccnet_lab.training.loop", "ccnet_lab.training.campaign", "torchvision.io"]
)


class Forked:
    """`python SCRIPT WORDS` as a process of its own; used like a `subprocess.Popen`."""

    def __init__(self, *words, folder=ROOT):
        pipes = [FORKS.Pipe(duplex=False) for _ in range(2)]
        ends = [end for _, end in pipes]
        method = multiprocessing.get_start_method()
        self.process = FORKS.Process(
            target=_script, args=([*map(str, words)], folder, method, *ends)
        )
        self.process.start()
        self.pid = self.process.pid
        Finalize(None, _end, args=(self.process,), exitpriority=1)  # else pytest would wait for it
        self.said = [b"", b""]
        self.readers = [
            Thread(target=self._read, args=(k, pipes[k][0]), daemon=True) for k in range(2)
        ]
        for end in ends:
            end.close()
        for reader in self.readers:
            reader.start()

    def _read(self, number, pipe):
        while some := os.read(pipe.fileno(), 65536):
            self.said[number] += some
        pipe.close()

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def communicate(self, timeout):
        """(stdout, stderr) once nobody holds them any more: neither it nor its workers."""
        deadline = time.monotonic() + timeout
        for waited in (*self.readers, self.process):
            waited.join(max(0, deadline - time.monotonic()))
            if waited.is_alive():
                raise subprocess.TimeoutExpired(str(self.process), timeout)
        return tuple(said.decode() for said in self.said)


def ran(*words, folder=ROOT, timeout=120):
    """The script, run to its end: its return code, stdout and stderr."""
    process = Forked(*words, folder=folder)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def _end(process):
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)


def _script(words, folder, method, out, err):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests' shell does so
    os.setsid()  # so that a test can kill it with its workers
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    multiprocessing.set_start_method(
        method, force=True
    )  # of its workers, as in a fresh interpreter
    os.chdir(folder)
    import torch

    torch.set_num_threads(1)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    runpy.run_path(words[0], run_name="__main__")

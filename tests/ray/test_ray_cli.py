"""The command line end to end on a real cluster: exit codes, retry, fork, and a cluster that runs already."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microsnoop.io.store import RunStore
from microsnoop_apps import cli

pytestmark = pytest.mark.ray
Run = Callable[..., tuple[int, str]]
QUICK = ("--encoder", "pixels16", "--input-px", "64", "--memory-gb", "4")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ray_cluster: None) -> Run:
    def command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["microsnoop", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out = capfd.readouterr()
        return int(caught.value.code or 0), out.out + out.err

    return command


def test_reject_retry_and_fork(run: Run, folder_of: Callable[..., Path], tmp_path: Path) -> None:
    folder, target = folder_of(6), tmp_path / "run"
    whole = (folder / "field 001 µ.tif").read_bytes()
    (folder / "field 001 µ.tif").write_bytes(whole[:50])
    code, out = run("embed", "--folder", folder, "--run-dir", target, *QUICK)
    assert code == 3, out  # one of six images is more than 5 %
    assert "expected 6 = written 5 + rejected 1 (decode_error 1)" in out
    assert "more than max_reject_fraction = 5%" in out
    assert (tmp_path / "run.h5ad").is_file()

    (folder / "field 001 µ.tif").write_bytes(whole)
    code, out = run("retry", target)
    assert code == 0, out
    assert "1 rejected rows to try again" in out
    assert "expected 6 = written 6 + rejected 0" in out
    assert run("verify", target)[0] == 0

    folder_of(2, start=6)
    code, out = run("embed", "--folder", folder, "--run-dir", target, *QUICK)
    assert code == 1
    assert "2 images are new in the input list: field 006 µ.tif, field 007 µ.tif" in out
    assert re.search(r"fix: .*--fork", out)
    code, out = run("embed", "--folder", folder, "--run-dir", target, *QUICK, "--fork", tmp_path / "more")
    assert code == 0, out
    assert "2 computed" in out
    assert "expected 8 = written 8 + rejected 0" in out
    assert RunStore(tmp_path / "more").info["forked_from"] == str(target)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """A Ray head in a process of its own, as on a cluster; only its process is stopped in the end."""
    port, short = free_port(), tempfile.mkdtemp(prefix="ray")  # Ray's sockets need short paths
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}",
        "--num-cpus=4", "--object-store-memory=300000000", "--include-dashboard=false", "--disable-usage-stats",
        f"--temp-dir={short}",
    ]  # fmt: skip
    log = (tmp_path / "head.log").open("wb")
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    subprocess.run(
        [command[0], "get-auth-token", "--generate"], env=environment, capture_output=True, check=True
    )
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in (tmp_path / "head.log").read_text():
            assert process.poll() is None, (tmp_path / "head.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()
        shutil.rmtree(short, ignore_errors=True)


def test_a_cluster_that_runs_already(head: str, folder_of: Callable[..., Path], tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "microsnoop_apps", "embed", "--folder", str(folder_of(5)),
        "--run-dir", str(tmp_path / "run"), "--address", head, *QUICK,
    ]  # fmt: skip
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "expected 5 = written 5 + rejected 0" in done.stdout


def test_no_cluster_there(tmp_path: Path, folder_of: Callable[..., Path]) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [
        sys.executable, "-m", "microsnoop_apps", "embed", "--folder", str(folder_of(1)),
        "--run-dir", str(tmp_path / "run"), "--address", address, *QUICK,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert f"cannot reach a Ray cluster at '{address}'" in done.stderr
    assert "Traceback" not in done.stderr

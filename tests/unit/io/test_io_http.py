from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import RowRejected
from microsnoop.io.images import ImageSource, read_image
from microsnoop.io.manifest import read_records
from microsnoop.io.opener import fingerprints

pytest.importorskip("aiohttp")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server on this machine that serves files in ranges and lists no folders."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            data = files.get(self.path)
            if data is None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            wanted = self.headers.get("Range")
            status, body = 200, data
            if wanted is not None:
                first, last = wanted.removeprefix("bytes=").split("-")
                status, body = 206, data[int(first) : int(last) + 1 if last else None]
            self.send_response(status)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{hash(data)}"')
            self.send_header("Content-Length", str(len(body)))
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(data)}")
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fsspec.get_filesystem_class("http").clear_instance_cache()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    server.server_close()
    thread.join(5)
    fsspec.get_filesystem_class("http").clear_instance_cache()


def test_images_behind_a_web_address(
    site: tuple[str, dict[str, bytes]], planes: Callable[..., NDArray], tmp_path: Any
) -> None:
    url, files = site
    truth = planes(4)
    tifffile.imwrite(tmp_path / "x.tif", truth, photometric="minisblack", metadata={"axes": "TYX"})
    files["/in/x.tif"] = (tmp_path / "x.tif").read_bytes()
    image = read_image(ImageSource((f"{url}/in/x.tif",), index=2))
    np.testing.assert_array_equal(image.planes, truth[2:3])
    with pytest.raises(RowRejected) as error:
        read_image(f"{url}/in/gone.tif")
    assert f"{url}/in/gone.tif" in error.value.message


def test_a_manifest_of_web_addresses(
    site: tuple[str, dict[str, bytes]], put: Callable[[str, bytes], str]
) -> None:
    url, files = site
    files["/in/x.tif"] = b"123"
    manifest = put("m.csv", f"uri\n{url}/in/x.tif\n{url}/in/gone.tif\n".encode())
    records = read_records(InputConfig(manifest=manifest)).records.to_pylist()
    assert [r["uris"] for r in records] == [[f"{url}/in/x.tif"], [f"{url}/in/gone.tif"]]


def test_a_file_on_a_server_that_lists_no_folders_has_a_fingerprint(
    site: tuple[str, dict[str, bytes]],
) -> None:
    url, files = site
    files["/in/x.tif"] = b"123"
    assert fingerprints([f"{url}/in/x.tif"]) != [None]

"""`sinkscope run`: the main job, everything there is, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import common

EPILOG = """Examples:\n
  sinkscope run                             the bundled model, into ./sinkscope-run\n
  sinkscope run path/to/model --out D       a local model\n
  sinkscope run Qwen/Qwen2.5-0.5B --bos both --dtype bfloat16 --device cuda"""


def command(
    model: common.Model = None,
    revision: common.Revision = None,
    dtype: common.Dtype = "float32",
    device: common.Device = "cpu",
    device_map: common.DeviceMap = None,
    text: common.Text = "builtin",
    kind: common.Kind = "text",
    n: common.Count = 64,
    length: common.Length = 256,
    bos: common.Bos = "as-is",
    reader: common.Reader = "auto",
    seed: common.Seed = 0,
    untrained: common.Untrained = True,
    out: Annotated[
        Path, typer.Option(help="Folder for summary.json, arrays.nc and report.html.")
    ] = Path("sinkscope-run"),
    expect: common.Expect = None,
    offline: common.Offline = False,
    allow_pickle: common.AllowPickle = False,
    trust_remote_code: common.TrustRemoteCode = False,
    json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Look at a model and write a report."""
    common.scan_and_show(
        loading={
            "model": model,
            "revision": revision,
            "dtype": dtype,
            "device": device,
            "device_map": device_map,
            "offline": offline,
            "allow_pickle": allow_pickle,
            "trust_remote_code": trust_remote_code,
        },
        settings={
            "text": text,
            "kind": kind,
            "n": n,
            "length": length,
            "bos": bos,
            "reader": reader,
            "seed": seed,
            "untrained": untrained,
        },
        out=out,
        expect=expect,
        as_json=json,
    )


command.__name__ = "run"

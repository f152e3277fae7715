"""`sinkscope run`: the main job, everything there is, and a report."""

from __future__ import annotations

import sys
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
    common.check_out(out)
    common.check_expect(expect)
    subject = common.load_subject(
        model,
        revision=revision,
        dtype=dtype,
        device=device,
        device_map=device_map,
        offline=offline,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    from sinkscope.detect.scan import ScanSettings, scan

    settings = ScanSettings(
        text=text,
        kind=kind,
        n=n,
        length=length,
        bos=bos,
        reader=reader,
        seed=seed,
        untrained=untrained,
    )
    with common.progress_bar() as progress:
        result = scan(subject, settings, progress=progress)
    folder = result.save(out)
    common.show(result, json)
    print(f"Report: {folder / 'report.html'}", file=sys.stderr if json else sys.stdout)
    common.exit_on_expect(result, expect)


command.__name__ = "run"

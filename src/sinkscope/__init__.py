"""sinkscope: find attention sinks in language models, trace the circuit, test it.

    import sinkscope
    subject = sinkscope.load("path/or/hub-id")
    result = sinkscope.run(subject)      # or scan, trace, verify alone
    print(result.table())

Heavy imports (torch, transformers) happen on first use, so that `import sinkscope` stays cheap.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "load": "sinkscope.subject.load",
    "Subject": "sinkscope.subject.load",
    "Prompts": "sinkscope.subject.prompts",
    "build_prompts": "sinkscope.subject.prompts",
    "run": "sinkscope.job",
    "RunSettings": "sinkscope.settings",
    "scan": "sinkscope.detect.scan",
    "ScanSettings": "sinkscope.settings",
    "trace": "sinkscope.circuit.trace",
    "TraceSettings": "sinkscope.settings",
    "find_circuit": "sinkscope.circuit.trace",
    "verify": "sinkscope.causal.verify",
    "VerifySettings": "sinkscope.settings",
    "mix": "sinkscope.mixing.mix",
    "MixSettings": "sinkscope.settings",
    "advise": "sinkscope.advice.advise",
    "AdviseSettings": "sinkscope.settings",
    "timeline": "sinkscope.training_runs.timeline",
    "TimelineSettings": "sinkscope.settings",
    "sweep": "sinkscope.model_runs.sweep",
    "SinkMonitor": "sinkscope.training_runs.monitor",
    "Result": "sinkscope.result",
    "load_result": "sinkscope.result",
    "load_circuit": "sinkscope.circuit.saved",
}
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sinkscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

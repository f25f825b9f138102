import subprocess
import sys

TRAINING_STACK = ("torch", "transformers", "onnx", "pandas", "polars", "training", "export")


def test_the_service_loads_nothing_of_training() -> None:
    # a fresh interpreter: this one has imported them for other tests
    code = "import sys, service.app, service.serving; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(TRAINING_STACK) & set(done.stdout.split())


def test_the_contract_loads_neither_half() -> None:
    code = "import sys, lsvcr.bundle, lsvcr.history, lsvcr.metrics; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unwanted = {*TRAINING_STACK, "service", "fastapi", "redis", "faiss", "onnxruntime"}
    assert not unwanted & set(done.stdout.split())


def test_every_import_follows_the_arrows() -> None:
    code = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

"""Everything on this machine: the stack, the shop's worker, one of each; then nothing is left."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from provider_uploads.local.samples import make_samples
from provider_uploads.local.stack import Stack, StackOptions

HERE = Path(__file__).parent


def main():
    """Start all, use it, end all."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ["PROVIDER_UPLOADS_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
    os.environ["SHOP_REDIS"] = f"redis://127.0.0.1:{port}"
    # What our workers must know of the shop.
    os.environ["PROVIDER_UPLOADS_BROKERS__SHOP__URL"] = f"redis://127.0.0.1:{port}/1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        files = [str(path) for path in make_samples(folder, video=False)]
        with Stack(StackOptions(redis_port=port, roots=(folder,))):
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-q", "-A", "shop", "worker", "-P", "threads"],
                cwd=HERE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                one_of_each(files)
            finally:
                worker.terminate()
                worker.wait()


def one_of_each(files):
    """A chain, a chord, a question, and a callback of a plain submit."""
    import shop

    from provider_uploads import UploadQueue

    print(shop.upload_and_describe(files[-1]).get(timeout=60))
    print(shop.upload_all(files).get(timeout=60))
    answer = shop.ask_about(files, "What are these?").get(timeout=60)
    print(f"a question over {answer['files']} files: {answer['finish_reason']}")
    callback = shop.told.s(42).set(task_id="order-42")
    UploadQueue().submit(files[0], on_active=callback, broker="shop")
    print(shop.app.AsyncResult("order-42").get(timeout=60))


if __name__ == "__main__":
    main()

"""UploadQueue without a worker: what it refuses, what it writes, and what cannot hurt it."""

from __future__ import annotations

import base64
import json
import math
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provider_uploads import QueueUnavailableError, ResultTimeoutError, Stage, UploadQueue, protocol
from provider_uploads.errors import (
    InvalidRequestError,
    SourceKindError,
    SourceNotAllowedError,
    SourceNotFoundError,
    SourceTooLargeError,
    SourceUnreadableError,
    UnknownTicketError,
)
from provider_uploads.protocol import MAX_FILE_BYTES
from provider_uploads.settings import settings
from tests.nodes import RedisProcess, free_port, wait_until


@pytest.fixture
def client(redis_url: str) -> Iterator[UploadQueue]:
    with UploadQueue(redis_url) as made:
        yield made


@pytest.fixture
def messages(shared_redis: RedisProcess) -> Callable[[str], list[dict[str, Any]]]:
    def read(queue: str) -> list[dict[str, Any]]:
        with shared_redis.client as redis:
            raw = redis.lrange(f"{protocol.KEY_PREFIX}{queue}", 0, -1)
        return [json.loads(message) for message in raw]

    return read


def body(message: dict[str, Any]) -> list[Any]:
    found: list[Any] = json.loads(base64.b64decode(message["body"]))
    return found


def test_submit_writes_a_row_and_one_message_under_the_ticket(
    client: UploadQueue,
    messages: Callable[[str], list[dict[str, Any]]],
    make_file: Callable[..., Path],
) -> None:
    path = make_file("clip.mp4", 1234)
    ticket = client.submit(path, display_name="Ein Fluß 🏞", timeout_s=5)
    (message,) = messages("transfer")
    assert message["headers"]["id"] == ticket
    assert message["headers"]["task"] == "provider_uploads.upload"
    ((payload,), kwargs, _) = body(message)
    assert kwargs == {}
    assert payload == {
        "version": 1,
        "upload_id": ticket,
        "source": str(path),
        "display_name": "Ein Fluß 🏞",
        "mime_type": "video/mp4",
        "size_bytes": 1234,
        "patience": {
            "timeout_s": 5.0,
            "poll_s": 2.0,
            "max_poll_s": 10.0,
            "backoff_factor": 1.5,
            "jitter_s": 0.2,
        },
        "cleanup_on_timeout": True,
        "reuse": False,
        "evict": None,
        "profile": "default",
    }
    status = client.status(ticket)
    assert (status.stage, status.size_bytes, status.sent_bytes) == (Stage.QUEUED, 1234, 0)
    assert status.display_name == "Ein Fluß 🏞"


def test_submit_many_is_one_message(
    client: UploadQueue,
    messages: Callable[[str], list[dict[str, Any]]],
    make_file: Callable[..., Path],
) -> None:
    paths = [make_file(f"{n}.bin", n) for n in range(50)]
    tickets = client.submit_many(paths, mime_type="text/x-log; charset=utf-8")
    (message,) = messages("control")
    assert messages("transfer") == []
    ((payloads,), _, _) = body(message)
    assert [payload["upload_id"] for payload in payloads] == tickets
    assert {payload["mime_type"] for payload in payloads} == {"text/x-log"}
    assert [status.source for status in client.statuses(tickets)] == [str(p) for p in paths]
    assert client.submit_many([]) == []


def test_one_bad_path_among_many_queues_nothing(
    client: UploadQueue,
    messages: Callable[[str], list[dict[str, Any]]],
    make_file: Callable[..., Path],
    shared_redis: RedisProcess,
) -> None:
    with pytest.raises(SourceNotFoundError, match="missing"):
        client.submit_many([make_file(), "missing.pdf"])
    with shared_redis.client as redis:
        assert redis.keys("*") == []


def test_a_relative_path_travels_as_an_absolute_one(
    client: UploadQueue, make_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_file("a.txt")
    monkeypatch.chdir(path.parent)
    assert client.status(client.submit("a.txt")).source == str(path)


class TestWrongSources:
    def test_missing(self, client: UploadQueue, tmp_path: Path) -> None:
        with pytest.raises(SourceNotFoundError, match="no such file") as caught:
            client.submit(tmp_path / "missing.mp4")
        assert isinstance(caught.value, FileNotFoundError)

    def test_a_directory(self, client: UploadQueue, tmp_path: Path) -> None:
        with pytest.raises(SourceKindError, match="is a directory, not a regular file"):
            client.submit(tmp_path)

    def test_a_fifo_is_refused_at_once(self, client: UploadQueue, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        with pytest.raises(SourceKindError, match="is a FIFO"):
            client.submit(fifo)

    def test_a_device(self, client: UploadQueue) -> None:
        with pytest.raises(SourceKindError, match="is a character device"):
            client.submit("/dev/null")

    def test_a_socket(self, client: UploadQueue, tmp_path: Path) -> None:
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            with pytest.raises(SourceKindError, match="is a socket"):
                client.submit(path)

    def test_a_name_with_a_nul(self, client: UploadQueue) -> None:
        with pytest.raises(SourceUnreadableError, match="null"):
            client.submit("a\0b")

    def test_over_two_gigabytes(self, client: UploadQueue, make_file: Callable[..., Path]) -> None:
        path = make_file("huge.mp4")
        os.truncate(path, MAX_FILE_BYTES + 1)  # sparse: it takes no room
        with pytest.raises(SourceTooLargeError, match="at most 2,147,483,648 a file"):
            client.submit(path)
        os.truncate(path, MAX_FILE_BYTES)
        assert client.submit(path)

    def test_unreadable(self, redis_url: str, make_file: Callable[..., Path]) -> None:
        path = make_file("private.txt")
        path.chmod(0)
        if os.geteuid():
            with UploadQueue(redis_url) as client, pytest.raises(SourceUnreadableError):
                client.submit(path)
            return
        # Root may read everything: ask as somebody else.
        for folder in [path.parent, *path.parents]:
            if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
                folder.chmod(0o755)
        code = f"""
            import os
            from provider_uploads import UploadQueue
            from provider_uploads.errors import SourceUnreadableError
            queue = UploadQueue({redis_url!r})
            import encodings.idna  # lazily loaded modules: before rights are given up
            os.setuid(65534)
            try:
                queue.submit({str(path)!r})
            except SourceUnreadableError as error:
                print(error)
        """
        said = run(code)
        assert "private.txt cannot be read (Permission denied)" in said

    def test_outside_the_roots_where_the_client_has_some(
        self,
        client: UploadQueue,
        make_file: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        inside = make_file("inside.txt")
        outside = tmp_path / "outside.txt"
        outside.write_text("x")
        link = inside.with_name("link.txt")
        link.symlink_to(outside)
        monkeypatch.setenv("PROVIDER_UPLOADS_ROOTS", str(inside.parent))
        settings.cache_clear()
        assert client.submit(inside)
        with pytest.raises(SourceNotAllowedError, match=r"outside\.txt is outside the allowed"):
            client.submit(outside)
        with pytest.raises(SourceNotAllowedError, match=r"leads to .*outside\.txt, which is outsi"):
            client.submit(link)


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("name", "value", "problem"),
        [
            ("timeout_s", 0, "must be a positive, finite number of seconds"),
            ("timeout_s", -1, "must be a positive"),
            ("timeout_s", math.inf, "must be a positive, finite"),
            ("timeout_s", math.nan, "must be a positive, finite"),
            ("timeout_s", "soon", "valid number"),
            ("poll_s", 0, "must be a positive"),
            ("max_poll_s", -3, "must be a positive"),
            ("backoff_factor", 0.5, "at least 1"),
            ("backoff_factor", math.nan, "at least 1"),
            ("jitter_s", -0.1, "must be zero or a positive"),
            ("jitter_s", math.inf, "must be zero or a positive"),
        ],
    )
    def test_timings(
        self,
        client: UploadQueue,
        make_file: Callable[..., Path],
        name: str,
        value: Any,
        problem: str,
    ) -> None:
        with pytest.raises(InvalidRequestError, match=problem) as caught:
            client.submit(make_file(), **{name: value})
        assert str(caught.value).startswith(f"patience.{name}={value!r}: ")
        assert isinstance(caught.value, ValueError)

    @pytest.mark.parametrize(
        "mime_type", ["video", "video/", "/mp4", "a b/c", "video/mp4\nx", "", "vidéo/mp4"]
    )
    def test_a_mime_type_that_is_none(
        self, client: UploadQueue, make_file: Callable[..., Path], mime_type: str
    ) -> None:
        with pytest.raises(InvalidRequestError, match="write it as type/subtype"):
            client.submit(make_file(), mime_type=mime_type)

    def test_a_display_name_of_600_characters(
        self, client: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        with pytest.raises(InvalidRequestError, match=r"has 600 characters; .* at most 512"):
            client.submit(make_file(), display_name="x" * 600)
        assert client.submit(make_file(), display_name="x" * 512)

    def test_a_file_name_that_is_no_text(self, client: UploadQueue, tmp_path: Path) -> None:
        path = os.fsencode(tmp_path) + b"/\xff.txt"
        with open(path, "wb"):  # noqa: PTH123 - a name that pathlib's text cannot spell
            pass
        with pytest.raises(InvalidRequestError, match=r"\\udcff\.txt': is not UTF-8 text"):
            client.submit(os.fsdecode(path))

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"display_name": "half a \ud83d"}, "display_name=.*lone surrogate"),
            ({"owner": ""}, "owner=.*1 to 128 characters"),
            ({"owner": "x" * 129}, "owner="),
            ({"owner": "\ud83d"}, "owner="),
            ({"tags": {"a": 1}}, "tags=.*text to text"),
            ({"tags": {"a": "x" * 257}}, "tags=.*longer than 256"),
            ({"tags": {str(n): "" for n in range(17)}}, "tags=17: are more than 16"),
        ],
    )
    def test_names_owners_and_tags(
        self,
        client: UploadQueue,
        make_file: Callable[..., Path],
        options: dict[str, Any],
        problem: str,
    ) -> None:
        with pytest.raises(InvalidRequestError, match=problem):
            client.submit(make_file(), **options)
        assert client.list().uploads == []

    @pytest.mark.parametrize("one", ["a.pdf", Path("a.pdf"), b"a.pdf"])
    def test_one_where_many_belong(self, client: UploadQueue, one: Any) -> None:
        """Each letter would be a path of its own."""
        for call in (
            lambda: client.submit_many(one),
            lambda: client.ask("What?", one),
            lambda: client.ask("What?", tickets=one),
        ):
            with pytest.raises(InvalidRequestError, match="give a list of them"):
                call()

    def test_an_unknown_ticket(self, client: UploadQueue) -> None:
        for ask in (client.status, client.result):
            with pytest.raises(UnknownTicketError, match="mistyped"):
                ask("nonsense")

    @pytest.mark.parametrize("timeout_s", [-1, math.nan])
    def test_a_wait_that_cannot_be(self, client: UploadQueue, timeout_s: float) -> None:
        with pytest.raises(InvalidRequestError, match="zero or more"):
            client.result("x", timeout_s=timeout_s)

    def test_a_redis_url_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROVIDER_UPLOADS_REDIS_URL", "http://localhost")
        with pytest.raises(Exception, match=r"PROVIDER_UPLOADS_REDIS_URL: must begin with redis:/"):
            UploadQueue()

    @pytest.mark.parametrize("url", ["http://user:s3cret@host", "redis://host:port/0"])
    def test_an_explicit_url_that_is_none(self, url: str) -> None:
        with pytest.raises(InvalidRequestError, match=r"^redis_url=\(not shown\): ") as caught:
            UploadQueue(url)
        assert "s3cret" not in repr(caught.value)


class TestOddFilesWork:
    def test_unknown_extension(self, client: UploadQueue, make_file: Callable[..., Path]) -> None:
        ticket = client.submit(make_file("data.unheardof"))
        assert client.status(ticket).mime_type == "application/octet-stream"

    def test_no_extension_but_told(
        self, client: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        ticket = client.submit(make_file("README"), mime_type="Text/Plain; charset=utf-8")
        assert client.status(ticket).mime_type == "text/plain"

    def test_no_wait_for_a_result(
        self, client: UploadQueue, make_file: Callable[..., Path]
    ) -> None:
        with pytest.raises(ResultTimeoutError, match="is QUEUED after 0"):
            client.result(client.submit(make_file()), timeout_s=0)


class TestRedisTrouble:
    def test_down(self, make_file: Callable[..., Path]) -> None:
        port = free_port()
        with UploadQueue(f"redis://user:s3cret@127.0.0.1:{port}/0") as client:
            for call in calls(client, make_file()):
                begun = time.monotonic()
                with pytest.raises(QueueUnavailableError, match=rf"127\.0\.0\.1:{port}") as caught:
                    call()
                assert time.monotonic() - begun < 5
                assert "Start it" in str(caught.value)
                assert "s3cret" not in str(caught.value) + repr(caught.value)

    @pytest.mark.parametrize("warm", [True, False], ids=["connected before", "first call"])
    def test_stalled(
        self, default_redis_broker: RedisProcess, make_file: Callable[..., Path], warm: bool
    ) -> None:
        path = make_file()
        with UploadQueue(default_redis_broker.url) as client:
            ticket = client.submit(path) if warm else "0" * 32
            default_redis_broker._container.kill("SIGSTOP")
            for call in calls(client, path, ticket):
                begun = time.monotonic()
                with pytest.raises(QueueUnavailableError):
                    call()
                assert time.monotonic() - begun < 5
            default_redis_broker._container.kill("SIGCONT")
            assert wait_until(lambda: client.submit(path), "it works again")

    def test_refused_between_the_rows_and_the_message(
        self, redis_url: str, make_file: Callable[..., Path]
    ) -> None:
        """The ledger may be written, the queue may not: the rows are taken back."""
        server = redis_url.removeprefix("redis://").partition("/")[0]
        with default_redis_broker_client(redis_url) as redis:
            keys = [f"~{protocol.KEY_PREFIX}{name}*" for name in ("upload", "open")]
            redis.execute_command("ACL", "SETUSER", "web", "on", ">secret", "+@all", "&*", *keys)
            with (
                UploadQueue(f"redis://web:secret@{server}/0") as client,
                pytest.raises(QueueUnavailableError, match=r"NoPermission|NOPERM"),
            ):
                client.submit_many([make_file(), make_file("b.txt")])
            rows = redis.keys(f"{protocol.KEY_PREFIX}upload:*")
            assert [redis.hget(row, "stage") for row in rows] == ["CANCELLED"] * 2
            redis.execute_command("ACL", "DELUSER", "web")

    def test_a_restart_between_two_calls_is_not_noticed(
        self, default_redis_broker: RedisProcess, make_file: Callable[..., Path]
    ) -> None:
        path = make_file()
        with UploadQueue(default_redis_broker.url) as client:
            client.submit(path)
            default_redis_broker._container.restart()
            default_redis_broker.ready()
            ticket = client.submit(path)
            assert client.status(ticket).stage is Stage.QUEUED


def default_redis_broker_client(url: str) -> Any:
    import redis

    return redis.Redis.from_url(url, decode_responses=True)


def calls(client: UploadQueue, path: Path, ticket: str = "0" * 32) -> list[Callable[[], Any]]:
    return [
        lambda: client.submit(path),
        lambda: client.submit_many([path, path]),
        lambda: client.status(ticket),
        lambda: client.result(ticket, timeout_s=1),
    ]


# -- a real host application, in a process of its own ----------------------------------------------


def run(code: str, *, folder: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestHostApplications:
    def test_celery_variables_do_not_send_it_elsewhere(
        self,
        redis_url: str,
        messages: Callable[[str], list[dict[str, Any]]],
        make_file: Callable[..., Path],
        tmp_path: Path,
    ) -> None:
        """Celery itself lets each of these win over explicit arguments."""
        (tmp_path / "hostile.py").write_text(
            "task_serializer = 'pickle'\ntask_always_eager = True\n"
            "task_default_queue = 'theirs'\nbroker_url = 'redis://127.0.0.1:1/0'\n"
        )
        wrong = "redis://127.0.0.1:1/0"
        said = run(
            f"""
            import time
            begun = time.monotonic()
            from provider_uploads import UploadQueue
            with UploadQueue({redis_url!r}) as queue:
                print(queue.submit({str(make_file())!r}))
            """,
            folder=tmp_path,
            CELERY_BROKER_URL=wrong,
            CELERY_BROKER_WRITE_URL=wrong,
            CELERY_RESULT_BACKEND=wrong,
            CELERY_CONFIG_MODULE="hostile",
            CELERY_LOADER="default",
        )
        (message,) = messages("transfer")
        assert message["headers"]["id"] == said.strip()
        assert message["content-type"] == "application/json"

    def test_its_packages_named_tasks_and_config_stay_its_own(
        self, redis_url: str, make_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        host = tmp_path / "host"
        for package in ("tasks", "config"):
            (host / package).mkdir(parents=True)
            (host / package / "__init__.py").write_text(f"WHO = 'the host''s {package}'\n")
        said = run(
            f"""
            import config, tasks
            from provider_uploads import UploadQueue
            with UploadQueue({redis_url!r}) as queue:
                queue.submit_many([{str(make_file())!r}])
            import sys
            print(tasks.WHO, config.WHO, 'tasks.upload' in sys.modules)
            """,
            folder=host,
        )
        assert said.split("\n")[0] == "the hosts tasks the hosts config False"

    def test_its_current_app_stays_current(
        self, redis_url: str, make_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        said = run(
            f"""
            from celery import Celery, current_app, shared_task
            host = Celery('host', broker='memory://', backend='cache+memory://')
            from provider_uploads import UploadQueue
            queue = UploadQueue({redis_url!r})
            queue.submit({str(make_file())!r})
            @shared_task
            def theirs(): ...
            print(current_app.main, theirs.app.main, 'provider_uploads' in str(sorted(host.tasks)))
            """,
            folder=tmp_path,
        )
        assert said.strip() == "host host False"

    def test_it_needs_no_working_logging_of_ours(
        self, redis_url: str, make_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        """Nothing is printed, nothing is configured behind the host's back."""
        said = run(
            f"""
            import logging, signal
            before = (logging.root.level, list(logging.root.handlers), signal.getsignal(2))
            from provider_uploads import UploadQueue
            UploadQueue({redis_url!r}).submit({str(make_file())!r})
            print(before == (logging.root.level, logging.root.handlers, signal.getsignal(2)))
            """,
            folder=tmp_path,
        )
        assert said == "True\n"

    def test_a_fork_gets_connections_of_its_own(
        self, redis_url: str, make_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        """Servers such as gunicorn load the application and fork then."""
        path = str(make_file())
        said = run(
            f"""
            import os
            from provider_uploads import UploadQueue
            queue = UploadQueue({redis_url!r})
            queue.submit({path!r})
            children = []
            for _ in range(4):
                pid = os.fork()
                if pid == 0:
                    for _ in range(25):
                        queue.submit({path!r})
                    os._exit(0)
                children.append(pid)
            for _ in range(25):
                queue.submit({path!r})
            print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
            """,
            folder=tmp_path,
        )
        assert said == "[0, 0, 0, 0]\n"
        with default_redis_broker_client(redis_url) as redis:
            assert redis.llen(f"{protocol.KEY_PREFIX}transfer") == 126

    def test_threads_share_one_queue(
        self,
        client: UploadQueue,
        messages: Callable[[str], list[dict[str, Any]]],
        make_file: Callable[..., Path],
    ) -> None:
        from concurrent.futures import ThreadPoolExecutor

        path = make_file()
        with ThreadPoolExecutor(40) as pool:
            tickets = list(pool.map(lambda _: client.submit(path), range(200)))
        assert {message["headers"]["id"] for message in messages("transfer")} == set(tickets)

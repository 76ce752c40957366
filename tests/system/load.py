"""Steady requests from threads, and what became of each of them."""

import http.client
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self


class Load:
    """Keeps sending GET / to some hosts, over and over, until the end of the `with` block.

    `answers` counts what was answered, by content; anything but 200 is a failure. `longest_s` is how long the
    slowest request took.
    """

    def __init__(self, hosts: list[str], threads: int = 4, pause_s: float = 0.01, path: str = "/") -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.longest_s = 0.0
        self._hosts, self._pause_s, self._path = hosts, pause_s, path
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n, threads)) for n in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, threads: int) -> None:
        hosts = self._hosts[number % len(self._hosts) :: threads] or self._hosts
        while not self._end.is_set():
            for host in hosts:
                self._one(host)
                if self._end.wait(self._pause_s):
                    return

    def _one(self, host: str) -> None:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=60)
        try:
            connection.request("GET", self._path, headers={"Host": host})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            failure = f"{answer.status} {text[:200]}" if answer.status != 200 else None
        except (OSError, http.client.HTTPException) as error:
            text, failure = "", repr(error)
        finally:
            connection.close()
        with self._lock:
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            if failure:
                self.failures.append(f"{host} after {time.monotonic() - began:.2f} s: {failure}")
            else:
                self.answers[text] += 1

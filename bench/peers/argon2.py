"""The cost of the hash alone: verifies one Argon2id hash in threads, and nothing else.

python -m bench.peers.argon2 THREADS SECONDS HASH PASSWORD      # prints JSON
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher


def main() -> None:
    threads, seconds, text, password = sys.argv[1:]
    verify = PasswordHasher().verify
    verify(text, password)
    began, cpu = time.perf_counter(), time.process_time()
    ends = began + float(seconds)

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() < ends:
            verify(text, password)
            done += 1
        return done

    with ThreadPoolExecutor(int(threads)) as pool:
        done = sum(pool.map(work, range(int(threads))))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"per_second": done / took, "cpu_seconds": cpu, "done": done}))


if __name__ == "__main__":
    main()

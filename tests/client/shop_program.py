"""An API of the business with the middleware around it, as a process under uvicorn.

    python shop_program.py '{"url": "http://127.0.0.1:…", "service_key": "bur_live_…"}'

It prints its port once it listens, and stops on SIGTERM as uvicorn does.
"""

import json
import socket
import sys

import uvicorn
from fastapi import FastAPI, Request

from bursar.client import BursarKeys

shop = FastAPI()


@shop.get("/v1/things/{thing_id}")
async def read_thing(request: Request, thing_id: int) -> dict[str, object]:
    return {"id": thing_id, "owner": request.scope["bursar"].user_id}


def main() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sys.stdout.write(f"{sock.getsockname()[1]}\n")
    sys.stdout.flush()
    app = BursarKeys(shop, **json.loads(sys.argv[1]))
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[sock])


if __name__ == "__main__":
    main()

"""Answers with what it was given."""

import os
import sys

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.wasi_http_types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam


def lines() -> str:
    with open("/data/message") as file:
        message = file.read().strip()
    return f"arguments {' '.join(sys.argv[1:])}\nGREETING {os.environ['GREETING']}\nfile {message}\n"


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        print(f"python: {request.path_with_query()}", flush=True)
        response = OutgoingResponse(Fields())
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        stream = body.write()
        stream.blocking_write_and_flush(lines().encode())
        stream.__exit__(None, None, None)
        OutgoingBody.finish(body, None)

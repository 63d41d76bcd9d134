"""A dashboard without Panel: an ASGI application on a unix socket, as `python -m ui --socket PATH --api URL`."""

from __future__ import annotations

import json
import os
import sys
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


async def page(request: Request) -> Response:
    return PlainTextResponse(f"page of {os.getpid()}")


async def echo(request: Request) -> Response:
    body = await request.body()
    seen = {
        "method": request.method,
        "path": request.scope["raw_path"].decode(),
        "query": request.url.query,
        "headers": request.headers.items(),
        "size": len(body),
        "token": os.environ["SAESTUDIO_TOKEN"],
        "arguments": sys.argv[1:],
    }
    return JSONResponse(seen, 207, headers={"X-Own": "1", "Set-Cookie": "a=1"})


async def stream(request: Request) -> Response:
    async def pieces():
        for _ in range(64):
            yield b"x" * 65_536

    return StreamingResponse(pieces(), media_type="application/octet-stream")


async def socket(websocket: WebSocket) -> None:
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol="bokeh" if "bokeh" in offered else None)
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                break
            text, data = message.get("text"), message.get("bytes")
            if text == "close":
                await websocket.close(4123, "as asked")
                break
            if text == "origin":
                await websocket.send_text(json.dumps(websocket.headers.items()))
            elif text == "die":
                os.kill(os.getpid(), 9)
            elif text is not None:
                await websocket.send_text(text)
            else:
                await websocket.send_bytes(data)
    except WebSocketDisconnect:
        return
    print("a socket has ended", message.get("code"), flush=True)


def end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    print("a dashboard begins", flush=True)
    threading.Thread(target=end_with_parent, daemon=True).start()
    routes = [
        Route("/", page),
        Route("/echo/{rest:path}", echo, methods=["GET", "POST", "DELETE"]),
        Route("/stream", stream),
        WebSocketRoute("/ws", socket),
    ]
    path = sys.argv[sys.argv.index("--socket") + 1]
    uvicorn.run(Starlette(routes=routes), uds=path, log_level="warning", ws="websockets-sansio", ws_max_size=2**28)

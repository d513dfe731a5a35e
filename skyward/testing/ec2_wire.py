"""Calls of AWS as they arrive, and answers as they leave. Text to values and back; no state."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.sax.saxutils import escape

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
_FORM = "application/x-www-form-urlencoded; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to one service."""

    service: str
    region: str
    action: str
    parameters: Mapping[str, str]
    """Flat, as the query protocol writes them: "TagSpecification.1.Tag.1.Key"; of JSON services likewise."""
    access_key: str
    environ: Mapping[str, Any]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = field(default=(("Content-Type", "text/xml;charset=UTF-8"),))


def read_call(environ: Mapping[str, Any]) -> Call:
    """What a WSGI request asks of which service of which region; its body is consumed."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length) if length else b""
    access_key, region, service = _signature(environ.get("HTTP_AUTHORIZATION", ""))
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        parameters = dict(_flat("", json.loads(body or b"{}")))
        action = target.rpartition(".")[2]
    elif service == "s3":
        parameters = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        action = _s3_action(environ["REQUEST_METHOD"], environ.get("PATH_INFO", "/"))
    else:
        text = body.decode() or environ.get("QUERY_STRING", "")
        parameters = dict(parse_qsl(text, keep_blank_values=True))
        action = parameters.get("Action", "")
    return Call(
        service=service,
        region=region,
        action=action,
        parameters=parameters,
        access_key=access_key,
        environ=environ,
        body=body,
    )


def environ_of(call: Call, parameters: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The call as WSGI again, with other parameters if there are any (query protocol only)."""
    body = call.body if parameters is None else urlencode(parameters).encode()
    changed = {} if parameters is None else {"CONTENT_TYPE": _FORM, "REQUEST_METHOD": "POST"}
    return {**call.environ, **changed, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}


def error_reply(call: Call, status: int, code: str, message: str) -> Reply:
    """An error in the words of the service."""
    if call.environ.get("HTTP_X_AMZ_TARGET"):
        body = json.dumps({"__type": code, "message": message})
        return Reply(
            status=status, body=body.encode(), headers=(("Content-Type", "application/x-amz-json-1.1"),)
        )
    inner = (
        f"<Error><Type>Sender</Type><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    )
    if call.service == "ec2":
        text = f"<Response><Errors>{inner}</Errors><RequestID>simulated</RequestID></Response>"
    elif call.service == "s3":
        text = inner
    else:
        text = f"<ErrorResponse>{inner}<RequestId>simulated</RequestId></ErrorResponse>"
    return Reply(status=status, body=f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())


def ec2_reply(action: str, result: Mapping[str, Any]) -> Reply:
    """A result of EC2; lists are sets of items, None is left out."""
    inner = "".join(_element(name, value) for name, value in result.items())
    text = f'<{action}Response xmlns="{NAMESPACE}"><requestId>simulated</requestId>{inner}</{action}Response>'
    return Reply(body=f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())


def json_reply(result: Mapping[str, Any]) -> Reply:
    return Reply(body=json.dumps(result).encode(), headers=(("Content-Type", "application/x-amz-json-1.1"),))


def members(parameters: Mapping[str, str], prefix: str) -> list[str]:
    """A list of scalars: `InstanceId.1`, `InstanceId.2`..., in their order."""
    numbered = []
    for name, value in parameters.items():
        head, _, tail = name.rpartition(".")
        if head == prefix and tail.isdigit():
            numbered.append((int(tail), value))
    return [value for _, value in sorted(numbered)]


def structures(parameters: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
    """A list of structures, each flat again: `Prefix.1.A`, `Prefix.1.B.C`... in their order."""
    found: dict[int, dict[str, str]] = {}
    for name, value in parameters.items():
        if name.startswith(prefix + "."):
            number, dot, rest = name[len(prefix) + 1 :].partition(".")
            if dot and number.isdigit():
                found.setdefault(int(number), {})[rest] = value
    return [found[number] for number in sorted(found)]


def inside(parameters: Mapping[str, str], prefix: str) -> dict[str, str]:
    """What lies under a prefix, without it."""
    return {
        name[len(prefix) + 1 :]: value for name, value in parameters.items() if name.startswith(prefix + ".")
    }


def _element(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return f"<{name}>{''.join(_element(key, inner) for key, inner in value.items())}</{name}>"
    if isinstance(value, list | tuple):
        return f"<{name}>{''.join(_element('item', inner) for inner in value)}</{name}>"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"<{name}>{escape(text)}</{name}>"


def _signature(authorization: str) -> tuple[str, str, str]:
    """Access key, region and service that a call is signed for."""
    _, _, rest = authorization.partition("Credential=")
    parts = rest.partition(",")[0].strip().split("/")
    return (parts[0], parts[2], parts[3]) if len(parts) == 5 else ("", "", "")


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value, 1):
            yield from _flat(f"{prefix}.{number}", inner)
    else:
        yield prefix, str(value)


def _s3_action(method: str, path: str) -> str:
    is_object = path.strip("/").count("/") > 0
    names = {
        "PUT": ("CreateBucket", "PutObject"),
        "GET": ("ListObjectsV2", "GetObject"),
        "HEAD": ("HeadBucket", "HeadObject"),
        "DELETE": ("DeleteBucket", "DeleteObject"),
        "POST": ("DeleteObjects", "CreateMultipartUpload"),
    }
    return names.get(method, (method, method))[is_object]

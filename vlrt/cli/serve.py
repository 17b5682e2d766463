"""`vlrt serve`."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from vlrt.cli.opening import open_model
from vlrt_runtime.errors import InputError, MissingDependencyError

__all__ = ["run"]

BACKLOG = 128  # connections that the system holds until the server takes them


def run(args: argparse.Namespace) -> int:
    """Serves until it is stopped."""
    try:
        from vlrt.serve.app import create_app
        from vlrt.serve.guard import is_loopback
        from vlrt.serve.options import ServeOptions
        from vlrt.serve.server import Server, bind
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"serve needs {error.name}, which is not installed: pip install 'vlrt[serve]'"
        ) from error
    for option in ("parallel", "max_tokens", "max_body"):
        if getattr(args, option) < 1:
            raise InputError(f"--{option.replace('_', '-')}: expected at least 1")
    api_key = _api_key(args.api_key_file)
    if not is_loopback(args.host) and api_key is None and not args.no_key:
        raise InputError(
            f"--host {args.host}: other machines could use it; set VLRT_API_KEY or --api-key-file, "
            "or let them with --no-key"
        )
    folder = None if args.picture_folder is None else Path(args.picture_folder)
    if folder is not None and not folder.is_dir():
        raise InputError(f"--picture-folder {folder}: no such folder")
    options = ServeOptions(
        name=args.name or Path(args.package).absolute().name,
        host=args.host,
        api_key=api_key,
        allow_hosts=tuple(args.allow_host),
        allow_origins=tuple(args.allow_origin),
        allow_picture_urls=args.allow_picture_urls,
        picture_folder=folder,
        queue=max(args.queue, 0),
        parallel=args.parallel,
        max_tokens=args.max_tokens,
        max_body=args.max_body << 20,
        max_bodies=max(args.max_body << 20, ServeOptions.max_bodies),
        max_pictures=args.max_pictures,
        grace_seconds=args.grace,
    )
    with bind(args.host, args.port) as socket:  # first: a port that is taken shows at once
        model = open_model(args, parallel=args.parallel)
        logging.basicConfig(format="vlrt: %(message)s", level=logging.WARNING)
        socket.listen(BACKLOG)  # whoever reads the address may use it
        host, port = socket.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        print(f"{options.name} on {model.device} answers at http://{host}:{port}", flush=True)
        print(f"OpenAI clients: base_url http://{host}:{port}/v1; Ctrl-C stops", flush=True)
        Server(create_app(model, options), options).run([socket])
    print("stopped")
    return 0


def _api_key(file: str | None) -> str | None:
    """From a file or the environment: a command line is seen by everyone on the machine."""
    if file is None:
        return os.environ.get("VLRT_API_KEY") or None
    try:
        key = Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--api-key-file {file}: cannot be read: {reason}") from error
    if not key or any(c.isspace() for c in key):
        raise InputError(f"--api-key-file {file}: expected one key, on one line")
    return key

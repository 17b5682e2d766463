"""`vlrt inspect`."""

from __future__ import annotations

import argparse
import json

from vlrt_runtime.errors import PackageError, shortlist
from vlrt_runtime.manifest import CoreMLSpec, GraphSpec, Manifest, TensorSpec
from vlrt_runtime.package import Package

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Shows a package's parts; with --check compares every file with its digest."""
    package = Package.open(args.package)
    if args.check and (damaged := package.damaged_files()):
        raise PackageError(
            f"{package.folder}: damaged: {shortlist(damaged)}; their SHA-256 is not the "
            "manifest's; export the package again"
        )
    if args.json:
        manifest = json.loads(package.manifest.to_json())
        print(json.dumps({"folder": str(package.folder), "checked": args.check, **manifest}))
    else:
        print("\n".join(_lines(package, checked=args.check)))
    return 0


def _lines(package: Package, *, checked: bool) -> list[str]:
    manifest = package.manifest
    source = manifest.source
    origin = f"{source.repo}@{(source.revision or '')[:12]}" if source.repo else "a local folder"
    size = sum(entry.size for entry in manifest.files.values())
    lines = [
        f"{manifest.name}: {manifest.family}, {size / 1e6:.1f} MB, for {manifest.device}",
        f"folder      {package.folder}",
        f"source      {origin}, exported by vlrt {manifest.vlrt_version}",
        f"digests     {'all files as in the manifest' if checked else 'not checked (--check)'}",
        f"verified    {_verified(manifest)}",
    ]
    for name, spec in manifest.graphs.items():
        lines += ["", *_graph_lines(manifest, name, spec)]
    table = manifest.embedding
    entry = manifest.files[table.file]
    lines += ["", f"embedding: {table.precision}, {table.rows} x {table.width}, {_mb(entry.size)}"]
    generation = manifest.generation
    stops = ", ".join(map(str, generation.stop_ids))
    lines.append(f"answers end at {stops}, or at {generation.max_context} positions")
    if manifest.coreml is not None:
        lines += _coreml_lines(manifest, manifest.coreml)
    elif "max_pixels" in manifest.image:
        limits = manifest.image
        lines.append(f"pictures: {limits['min_pixels']} to {limits['max_pixels']} pixels")
    return lines


def _coreml_lines(manifest: Manifest, spec: CoreMLSpec) -> list[str]:
    lines = [
        f"Core ML, {spec.profile} profile: decoder in {len(spec.decoder)} program(s), prompts read "
        f"{spec.prefill_rows} positions at a time"
    ]
    sizes = [f"{width}x{height}" for height, width in manifest.image.get("sizes", ())]
    return [*lines, f"pictures: {', '.join(sizes)}"] if sizes else lines


def _graph_lines(manifest: Manifest, name: str, spec: GraphSpec) -> list[str]:
    parts = manifest.coreml.decoder if manifest.coreml and name == "decoder" else (spec.file,)
    size = sum(entry.size for file, entry in manifest.files.items() if file.startswith(parts))
    precision = spec.precision
    kind = precision.kind
    if kind.startswith("int"):
        blocks = f"blocks of {precision.block_size}" if precision.block_size else "a scale a row"
        kind += f" by {precision.quantizer} ({blocks}, accuracy level {precision.accuracy_level})"
    return [
        f"{name}: {kind}, {spec.parameters / 1e6:.1f} M parameters, {_mb(size)}",
        *_tensor_lines("in", spec.inputs),
        *_tensor_lines("out", spec.outputs),
    ]


def _tensor_lines(label: str, specs: tuple[TensorSpec, ...]) -> list[str]:
    plain = [spec for spec in specs if not _in_cache(spec)]
    lines = [f"  {label:4}{spec.name} {spec.dtype} {_shape(spec)}" for spec in plain]
    cached = [spec for spec in specs if _in_cache(spec)]
    if cached:
        first = cached[0]
        lines.append(f"  {label:4}{len(cached)} of {first.name} {first.dtype} {_shape(first)}")
    return lines


def _in_cache(spec: TensorSpec) -> bool:
    return spec.name.startswith(("past_key_values.", "present."))


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(map(str, spec.shape)) + "]"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _verified(manifest: Manifest) -> str:
    found = manifest.verification
    if found is None:
        return "no (vlrt verify --write)"
    return f"{found['agreed_tokens']} of {found['compared_tokens']} greedy tokens agree"

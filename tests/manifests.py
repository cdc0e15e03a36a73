"""Manifests of artifacts with other values."""

from pathlib import Path

from trm.storage.artifacts import MANIFEST, read_manifest, write_manifest


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Write the manifest of a folder again, with its digest, and with some other values."""
    manifest = read_manifest(folder)
    kept = {name: value for name, value in manifest.items() if name not in ("files", "manifest_sha256")}
    (folder / MANIFEST).unlink()
    write_manifest(folder, kept | changes)

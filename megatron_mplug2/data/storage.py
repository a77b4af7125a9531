"""From a folder's name to its files: a path or a URL, with the node's cache and staged copies between."""

from dataclasses import dataclass
from pathlib import Path

from megatron_mplug2.config.data import CacheConfig, DataConfig
from megatron_mplug2.data.staging import StagedFiles
from megatron_mplug2.data.tar_files import LocalFiles, TarFiles
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How folders are read."""

    cache: CacheConfig
    staging: Path | None

    @staticmethod
    def of(data: DataConfig) -> "Storage":
        return Storage(cache=data.cache, staging=data.staging)

    def open(self, folder: str) -> TarFiles:
        """Raises UserError for a URL without a cache."""
        files = self._origin(folder)
        return StagedFiles(files, self.staging) if self.staging else files

    def _origin(self, folder: str) -> TarFiles:
        if "://" not in folder:
            return LocalFiles(Path(folder))
        if self.cache.folder is None:
            raise UserError(f"{folder} is remote: set data.cache.folder to a folder on a disk of this node")
        from megatron_mplug2.data.remote_files import RemoteFiles  # so that local folders do without fsspec

        return RemoteFiles(folder, self.cache.folder, int(self.cache.limit_gb * 1e9))


LOCAL = Storage(cache=CacheConfig(), staging=None)
"""Local folders where they are."""

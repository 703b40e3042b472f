"""The embedded server: the pip-installed tritonserver, run on a built model repository."""

from hytrec_export.server.embedded import EmbeddedServer
from hytrec_export.server.foreground import print_endpoints, run_until_stopped
from hytrec_export.server.options import ServerOptions

__all__ = ["EmbeddedServer", "ServerOptions", "print_endpoints", "run_until_stopped"]

"""Start a web server in a sandbox, then hold the sandbox with its memory and open ports."""

import sys

from beam import Sandbox

sandbox = Sandbox(cpu=1).create()

sandbox.expose_port(8000)

sandbox.process.exec(
    "python",
    "-c",
    "import http.server; http.server.HTTPServer(('', 8000), http.server.SimpleHTTPRequestHandler).serve_forever()",
)

snapshot_id = sandbox.snapshot_memory()
print(f"Snapshot created with ID: {snapshot_id}")

print(sandbox.list_urls())

if len(sys.argv) > 1:
    with open(sys.argv[1], "w") as file:
        file.write(snapshot_id)

sandbox.terminate()

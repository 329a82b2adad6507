"""Play a held sandbox on as a new one: its web server answers. The argument is the snapshot's id."""

import sys
import urllib.request

from beam import Sandbox

snapshot_id = sys.argv[1]

sandbox = Sandbox().create_from_memory_snapshot(snapshot_id)

urls = sandbox.list_urls()
print(urls)

for url in urls.values():
    with urllib.request.urlopen(url) as answer:
        print(f"GET {url}: {answer.status}")

sandbox.terminate()

"""Change a sandbox's files, then hold its filesystem as an image."""

import sys

from beam import Sandbox

sandbox = Sandbox(cpu=1).create()

p = sandbox.process.exec("sh", "-c", "mkdir -p /something && touch /something/file.txt")
p.wait()
print(p.logs.read())

image_id = sandbox.create_image_from_filesystem()
print(f"Image created with ID: {image_id}")

if len(sys.argv) > 1:
    with open(sys.argv[1], "w") as file:
        file.write(image_id)

sandbox.terminate()

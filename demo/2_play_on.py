"""Start a new sandbox from a held filesystem. The argument is the image's id."""

import sys

from beam import Image, Sandbox

image_id = sys.argv[1]

sandbox = Sandbox(image=Image.from_id(image_id)).create()

p = sandbox.process.exec("ls", "-l", "/something")
p.wait()
print(p.logs.read())

sandbox.terminate()

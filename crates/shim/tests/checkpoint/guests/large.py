guest(lambda: (os.urandom(200 << 20),), lambda block: None)

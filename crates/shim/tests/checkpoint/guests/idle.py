guest(lambda: (), lambda: None)

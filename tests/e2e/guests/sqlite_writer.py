"""A database in use: every committed row is there, and no other."""

import sqlite3
import sys

from guest import check, goes_on, is_ready, right

connection = sqlite3.connect("/database", isolation_level=None)
mode = connection.execute(f"pragma journal_mode={sys.argv[1]}").fetchone()[0]
check(mode == sys.argv[1], mode)
connection.execute("create table numbers (number integer primary key, square integer)")
count = 0
is_ready()
while goes_on():
    connection.execute("begin immediate")
    for _ in range(3):
        connection.execute("insert into numbers values (?, ?)", (count, count * count))
        count += 1
    connection.execute("commit")
    rows = connection.execute("select count(*), max(number) from numbers").fetchone()
    check(rows == (count, count - 1), rows, "not", count)
connection.close()
connection = sqlite3.connect("/database")
check(connection.execute("pragma integrity_check").fetchone() == ("ok",))
check(connection.execute("select count(*) from numbers where square != number * number").fetchone() == (0,))
check(connection.execute("select count(*) from numbers").fetchone() == (count,))
right()

#!/usr/bin/python3 -IS
"""The app whose starts are measured: it listens where it is told and answers every request with two bytes.

As little as a Python program can be, so that what is measured is the start and not the app.
"""

import os
import select
import socket

if os.environ.get("LISTEN_FDS"):
    listener = socket.socket(fileno=3)
else:
    if port := os.environ.get("PORT"):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", int(port)))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.environ["SOCKET_PATH"])
    listener.listen(1024)

poll = select.epoll()
poll.register(listener, select.EPOLLIN)
connections = {}
while True:
    for fd, _ in poll.poll():
        if fd == listener.fileno():
            connection, _ = listener.accept()
            connections[connection.fileno()] = connection
            poll.register(connection, select.EPOLLIN)
        elif connections[fd].recv(65536):
            connections[fd].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        else:
            connections.pop(fd).close()

/* The app behind every proxy that is measured: it does as little as an app can, so that the proxy is what counts.
 *
 * GET of any path: 26 bytes, or as many as /bytes/NUMBER says. A body that is sent is read to its end before the answer.
 * One thread, epoll, keep-alive; it listens on 127.0.0.1:$PORT. Requests must not be pipelined.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_MAX 8192
#define BLOCK (256 * 1024)

struct connection {
	int fd;
	size_t filled;             /* of head */
	long long unread, unsent;  /* of the bodies of request and answer */
	long long length;          /* of the answer to the request that is being read */
	char head[HEAD_MAX + 1];
};

static char block[BLOCK];
static char sink[BLOCK];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void watch(int epoll, struct connection *c, int operation)
{
	struct epoll_event event = {.events = c->unsent ? EPOLLOUT : EPOLLIN, .data.ptr = c};
	if (epoll_ctl(epoll, operation, c->fd, &event))
		fail("epoll_ctl");
}

static void answer(int epoll, struct connection *c)
{
	char head[512];
	int size = snprintf(head, sizeof head,
		"HTTP/1.1 200 OK\r\nServer: upstream\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
		"Content-Type: text/plain\r\nContent-Length: %lld\r\nConnection: keep-alive\r\n\r\n", c->length);
	if (c->length == 26) {
		memcpy(head + size, "abcdefghijklmnopqrstuvwxyz", 26);
		size += 26;
	} else {
		c->unsent = c->length;
	}
	if (send(c->fd, head, size, MSG_NOSIGNAL | (c->unsent ? MSG_MORE : 0)) != size)
		c->unsent = 0; /* The client is gone: the next read says so. */
	if (c->unsent)
		watch(epoll, c, EPOLL_CTL_MOD);
}

/* Whether the connection goes on. */
static int read_body(int epoll, struct connection *c)
{
	ssize_t got = recv(c->fd, sink, BLOCK, 0);
	if (got <= 0)
		return got < 0 && errno == EAGAIN;
	c->unread -= got;
	if (c->unread <= 0)
		answer(epoll, c);
	return 1;
}

static int read_head(int epoll, struct connection *c)
{
	ssize_t got = recv(c->fd, c->head + c->filled, HEAD_MAX - c->filled, 0);
	if (got <= 0)
		return got < 0 && errno == EAGAIN;
	c->filled += got;
	c->head[c->filled] = 0;
	char *end = strstr(c->head, "\r\n\r\n");
	if (!end)
		return c->filled < HEAD_MAX;
	c->length = 26;
	char *number = memmem(c->head, 32, " /bytes/", 8);
	if (number)
		c->length = atoll(number + 8);
	c->unread = 0;
	char *length = strcasestr(c->head, "\r\ncontent-length:");
	if (length && length < end)
		c->unread = atoll(length + 17) - (long long)(c->head + c->filled - (end + 4));
	c->filled = 0;
	if (c->unread <= 0)
		answer(epoll, c);
	return 1;
}

static int write_body(int epoll, struct connection *c)
{
	ssize_t sent = send(c->fd, block, c->unsent < BLOCK ? c->unsent : BLOCK, MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EAGAIN;
	c->unsent -= sent;
	if (!c->unsent)
		watch(epoll, c, EPOLL_CTL_MOD);
	return 1;
}

static int listen_here(void)
{
	const char *port = getenv("PORT");
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port ? atoi(port) : 0)};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096))
		fail("listen");
	return fd;
}

int main(void)
{
	struct epoll_event events[256];
	struct connection listener = {.fd = listen_here()};
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	watch(epoll, &listener, EPOLL_CTL_ADD);
	for (;;) {
		int count = epoll_wait(epoll, events, 256, -1);
		for (int i = 0; i < count; i++) {
			struct connection *c = events[i].data.ptr;
			int goes_on;
			if (c == &listener) {
				int fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
				if (fd < 0)
					continue;
				if (!(c = calloc(1, sizeof *c)))
					fail("calloc");
				c->fd = fd;
				watch(epoll, c, EPOLL_CTL_ADD);
				continue;
			}
			if (events[i].events & EPOLLOUT)
				goes_on = write_body(epoll, c);
			else
				goes_on = c->unread > 0 ? read_body(epoll, c) : read_head(epoll, c);
			if (!goes_on) {
				close(c->fd);
				free(c);
			}
		}
	}
}

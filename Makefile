# Everything is done by tools/box, which says how it works at its top. `make box`, `demo`, `test`, `lint` and `deb` need
# root on a Debian 12 or 13 machine and nothing else.

prefix ?= /usr/local
libdir = $(DESTDIR)$(prefix)/lib
sharedir = $(DESTDIR)$(prefix)/share
# Units are only found under /usr/lib and /etc, so a local installation puts them into the latter's place for packages.
python_dir ?= $(libdir)/python3/dist-packages

# Commands reach tools/box as they were given, dollars and quotes included: make expands neither.
ifdef RUN
override export RUN := $(value RUN)
endif
ifdef ARGS
override export ARGS := $(value ARGS)
endif

BOX = tools/box

.PHONY: all bench box check clean deb demo install install-data install-python lint test typecheck python

all: deb

check: lint test

box: python
	@$(BOX) run

demo: python
	@RUN=/src/tools/demo $(BOX) run

bench: python
	@RUN=/src/bench/run $(BOX) run --layer bench

deb: python
	@$(BOX) deb

test: python
	@$(BOX) test

lint: python
	@$(BOX) tools --package tools/lint

typecheck: python
	@$(BOX) tools mypy

# The one thing that tools/box cannot install itself.
python:
	@command -v python3 >/dev/null || { apt-get -q update && apt-get -q install -y python3-minimal; } >&2

install: install-python install-data

install-python:
	install -d $(python_dir)
	cp -r tenement $(python_dir)/
	find $(python_dir)/tenement -name __pycache__ -prune -exec rm -r {} +
	install -d $(DESTDIR)$(prefix)/bin
	printf '#!/usr/bin/python3\nimport sys\n\nfrom tenement.cli import main\n\nsys.exit(main())\n' >$(DESTDIR)$(prefix)/bin/ten
	chmod 755 $(DESTDIR)$(prefix)/bin/ten

# Units, bus policy and configuration have fixed places that systemd and the bus look into.
install-data:
	install -d $(DESTDIR)/usr/lib/systemd/system $(DESTDIR)/usr/lib/systemd/system-generators $(DESTDIR)/usr/lib/tenement
	install -m 644 units/tenement*.service units/*.socket units/*.target units/*.slice $(DESTDIR)/usr/lib/systemd/system/
	install units/tenement-proxy-generator $(DESTDIR)/usr/lib/systemd/system-generators/
	install units/stop-tenants $(DESTDIR)/usr/lib/tenement/
	install -D -m 644 units/tenement.sysusers $(DESTDIR)/usr/lib/sysusers.d/tenement.conf
	install -D -m 644 units/tenement.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/tenement.conf
	install -D -m 644 -t $(DESTDIR)/usr/share/dbus-1/system.d units/dev.tenement.Manager.conf
	install -D -m 644 -t $(DESTDIR)/usr/share/dbus-1/system-services units/dev.tenement.Manager.service
	install -d $(DESTDIR)/etc/tenement/tenement.d
	install -m 644 units/tenement.toml $(DESTDIR)/etc/tenement/
	install -d $(sharedir)/tenement $(sharedir)/doc/tenement/examples
	cp -r examples/. $(sharedir)/doc/tenement/examples/
	if [ -d templates ]; then cp -r templates $(sharedir)/tenement/; fi
	if [ -d completions ]; then \
		install -D -m 644 completions/ten.bash $(sharedir)/bash-completion/completions/ten; \
		install -D -m 644 completions/_ten $(sharedir)/zsh/vendor-completions/_ten; \
		install -D -m 644 completions/ten.fish $(sharedir)/fish/vendor_completions.d/ten.fish; \
	fi
	for page in docs/*.[1-8]; do \
		[ ! -e "$$page" ] || install -D -m 644 -t $(sharedir)/man/man$${page##*.} "$$page"; \
	done

clean:
	rm -rf dist build tenement.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -r {} +

# The work is done by tools/box (see tools/boxes/__init__.py for how), which needs root on a Debian 12 or 13 machine and
# nothing else prepared.
#
#   make box              a shell in a throwaway Debian 13 with tenement installed;  make box RUN='ten version'
#   make demo             the quick start, played in such a box
#   make test             the whole suite;  make test ARGS='-k upgrade'
#   make unit             only the tests that need no box
#   make lint typecheck   what can be checked without running anything
#   make deb              dist/tenement_VERSION_all.deb and dist/tenement-native_VERSION_ARCHITECTURE.deb
#   make bench            benchmarks, in a box that also has the peers
#   make install          without the package: DESTDIR and prefix as usual
#   make native           the proxy's hot path compiled, in build/native;  make install-native: beside its Python
#   make clean            what the above left in the tree;  make clean-cache: the Debian layers in /var/cache/tenement
#
# Whatever fails, make itself ends with status 2; `RUN='...' tools/box run` ends with the command's own.

# The units name programs and pages below /usr.
prefix ?= /usr
sharedir = $(DESTDIR)$(prefix)/share
python_dir ?= $(DESTDIR)$(prefix)/lib/python3/dist-packages

# These reach tools/box as they were given, quotes and dollars included: nothing here expands them.
ifdef RUN
override export RUN := $(value RUN)
endif
ifdef ARGS
override export ARGS := $(value ARGS)
endif

BOX = tools/box

# What runs for each request, compiled by mypyc. None of it has coroutines, since cancellation of one that awaits another
# gets lost in the translation, or adds bytes to bytes, which loses the left ones' memory. Python takes the compiled module
# where there is one.
NATIVE_MODULES = tenement/counters.py $(addprefix tenement/proxy/, access.py date.py exchange.py forwarded.py framing.py \
	guards.py hosts.py lease.py limits.py policy.py request_head.py response_head.py routes.py server.py settings.py \
	tunnels.py upstream.py worker.py)

.PHONY: all bench box check clean clean-cache deb demo install install-data install-native install-python lint native \
	python test typecheck unit

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

unit: python
	@$(BOX) tools python3 -m pytest -p no:cacheprovider tests/unit $(ARGS)

lint: python
	@$(BOX) tools --package tools/lint

typecheck: python
	@$(BOX) tools mypy --cache-dir /tmp/mypy tenement

# The one thing that tools/box cannot install itself.
python:
	@command -v python3 >/dev/null || { apt-get -q update && apt-get -q install -y python3-minimal; } >&2

install: install-python install-data

install-python:
	install -d $(python_dir)
	cp -r tenement $(python_dir)/
	find $(python_dir)/tenement -name __pycache__ -prune -exec rm -r {} +
	install -d $(DESTDIR)$(prefix)/bin
	printf '#!/usr/bin/python3\nimport sys\n\nfrom tenement.cli import main\n\nsys.exit(main())\n' \
		>$(DESTDIR)$(prefix)/bin/ten
	chmod 755 $(DESTDIR)$(prefix)/bin/ten
	# How certbot finds our authenticator.
	install -d $(python_dir)/tenement-local.dist-info
	printf 'Metadata-Version: 2.1\nName: tenement\nVersion: 0\n' >$(python_dir)/tenement-local.dist-info/METADATA
	printf '[certbot.plugins]\ntenement = tenement.tls.certbot_plugin:Authenticator\n' \
		>$(python_dir)/tenement-local.dist-info/entry_points.txt

# systemd and the bus look for units, policy and the like in fixed places, whatever the prefix.
install-data: systemd_dir = $(DESTDIR)/usr/lib/systemd
install-data:
	install -d $(systemd_dir)/system
	install -m 644 units/tenement*.service units/*.mount units/*.socket units/*.target units/*.slice $(systemd_dir)/system/
	install -D -t $(systemd_dir)/system-generators units/tenement-proxy-generator
	install -D -t $(DESTDIR)/usr/lib/tenement units/stop-tenants units/deploy-certificate
	install -D -m 644 units/tenement.sysusers $(DESTDIR)/usr/lib/sysusers.d/tenement.conf
	install -D -m 644 units/tenement.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/tenement.conf
	install -D -m 644 -t $(DESTDIR)/usr/share/dbus-1/system.d units/dev.tenement.Manager.conf
	install -D -m 644 -t $(DESTDIR)/usr/share/dbus-1/system-services units/dev.tenement.Manager.service
	install -D -m 644 -t $(DESTDIR)/usr/share/polkit-1/actions units/dev.tenement.manage.policy
	install -d $(DESTDIR)/etc/tenement/tenement.d
	install -m 644 units/tenement.toml $(DESTDIR)/etc/tenement/
	install -d $(sharedir)/tenement $(sharedir)/doc/tenement/examples
	cp -r examples/. $(sharedir)/doc/tenement/examples/
	cp -r templates $(sharedir)/tenement/
	install -D -m 644 completions/ten.bash $(sharedir)/bash-completion/completions/ten
	install -D -m 644 completions/_ten $(sharedir)/zsh/vendor-completions/_ten
	install -D -m 644 completions/ten.fish $(sharedir)/fish/vendor_completions.d/ten.fish
	install -D -m 644 -t $(sharedir)/doc/tenement docs/*.md
	for page in docs/*.[1-8]; do install -D -m 644 -t $(sharedir)/man/man$${page##*.} "$$page" || exit 1; done

# mypyc writes beside the sources, so it gets a copy. Debian's, whatever is first in PATH: a newer one need not accept
# the same code.
native:
	rm -rf build/native
	install -d build/native
	cp -r tenement pyproject.toml build/native/
	cd build/native && /usr/bin/mypyc $(NATIVE_MODULES)
	awk '/^[^ }].*\(/ { function_ = $$0 } /CPyBytes_Concat/ && function_ !~ /top_level/ { print function_; found = 1 } \
		END { if (found) print "These add bytes to bytes: use %b."; exit found }' $$(find build/native/build -name '*.c')

# With what they share, which has to be found from sys.path.
install-native:
	cd build/native && for file in *.so $$(find tenement -name '*.so'); do \
		install -D -m 644 $$file $(abspath $(python_dir))/$$file || exit 1; \
	done

clean-cache:
	@$(BOX) clean

clean:
	rm -rf dist build tenement.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -r {} +

"""The guest runner: boots a guest with a share of some vhost-user-fs daemon and runs suites in it."""

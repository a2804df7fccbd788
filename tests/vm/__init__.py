"""Tests that boot a kernel of their own; docs/vm-tests.md says how to write one."""

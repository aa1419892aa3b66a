"""The kinds of key/value cache. Each holds one layer of one request and attends over what it holds."""

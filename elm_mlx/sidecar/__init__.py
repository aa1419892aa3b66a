"""A model beside an app: JSON-RPC 2.0 over standard input and output, a message a line."""

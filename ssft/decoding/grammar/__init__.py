"""What a text must look like: a JSON schema, a regular expression or a grammar, and where a text stands in it."""

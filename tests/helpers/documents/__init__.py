"""Reading the documents, and doing what they say."""

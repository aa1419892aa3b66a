"""What clients write and read: the JSON of OpenAI's and Anthropic's APIs to what is asked, and answers back to it.

Everything here is a pure function of its arguments or a small object of one answer: no sockets, threads or files.
"""

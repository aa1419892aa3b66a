"""The page at `/`: a chat and a completion pane in plain HTML, CSS and JavaScript, which talks to its own server only.

The files are served as they lie here: there is no build, and nothing comes from elsewhere. `routes` serves them.
"""

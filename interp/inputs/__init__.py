"""From what a user has (texts, files, chats, ids, pixels, sound) to a batch that a model can run, and its tokens for people."""

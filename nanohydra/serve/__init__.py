"""The server: an OpenAI-compatible API, its engine process, its database and the web app."""

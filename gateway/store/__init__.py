"""The gateway's tables and the functions that read and write their rows; each works on a connection it is handed."""

"""What every service uses: servers, channels, errors, settings, telemetry and the nouns they share."""

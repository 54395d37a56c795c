"""Pictures from folders instead of requests: by the service's own code, without HTTP."""

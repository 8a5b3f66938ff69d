"""AGD: classifier-free guidance in adapters beside the cross-attentions."""

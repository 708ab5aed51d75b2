// Express: middleware that adds the caller's upstream token to the request.
import { ConnectionNeeded, type TokenOptions, type UpstreamToken, type Vault, VaultRefused } from "./index.js";

/** The parts of Express that the middleware uses, in any release. */
interface Request {
  headers: { authorization?: string };
  upstreamToken?: UpstreamToken;
}
interface Response {
  status(code: number): Response;
  set(name: string, value: string): Response;
  json(content: unknown): unknown;
}

/** The caller's bearer token is the subject. 401 without one; 403 with `connect_uri` if the person must act first. */
export function upstreamToken(vault: Vault, audience: string, options: Omit<TokenOptions, "subject"> = {}) {
  return async (request: Request, response: Response, next: (error?: unknown) => void): Promise<void> => {
    const [scheme, subject] = (request.headers.authorization ?? "").split(" ");
    if (scheme?.toLowerCase() !== "bearer" || !subject) {
      response.status(401).set("WWW-Authenticate", "Bearer").json({ error: "invalid_token" });
      return;
    }
    try {
      request.upstreamToken = await vault.token(audience, { ...options, subject });
    } catch (error) {
      if (!(error instanceof VaultRefused)) return next(error);
      answer(response, error);
      return;
    }
    next();
  };
}

function answer(response: Response, refused: VaultRefused): void {
  if (refused instanceof ConnectionNeeded) {
    const said = { error: refused.code, connect_uri: refused.connectUri, description: refused.description };
    response.status(403).json(said);
  } else if (refused.status >= 500 || refused.retryAfter !== null) {
    if (refused.retryAfter !== null) response.set("Retry-After", String(refused.retryAfter));
    response.status(503).json({ error: refused.code });
  } else {
    const hasEnded = ["invalid_grant", "invalid_request", "invalid_token"].includes(refused.code);
    response.status(hasEnded ? 401 : 403).json({ error: refused.code });
  }
}

// A vault from its client's side: exchange a person's token for a token of their account (RFC 8693).
import { AsyncLocalStorage } from "node:async_hooks";
import { createHash } from "node:crypto";
import { ConnectionNeeded, refusalOf } from "./refusals.js";

export { ConnectionNeeded, VaultRefused } from "./refusals.js";

export const ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";
export const JWT = "urn:ietf:params:oauth:token-type:jwt";
const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
const MARGIN = 30_000; // milliseconds before its end when a token is no longer used
const KEPT = 1000;

/**
 * A token for a provider's API, or a handle that works through the vault's proxy at `apiBaseUrl`. Logs and JSON don't
 * show its `value`, and copies with `{...token}` don't have it.
 */
export interface UpstreamToken {
  readonly value: string;
  readonly scopes: readonly string[];
  readonly expiresAt: number | null;
  readonly narrowing: string | null;
  readonly apiBaseUrl: string | null;
}

export interface TokenOptions {
  scopes?: readonly string[];
  /** The person's access token; default: that of `actingFor`. */
  subject?: string;
  subjectType?: string;
  account?: string;
  resource?: string;
  /** Ask the vault even if a token is kept. */
  fresh?: boolean;
}

export interface Credentials {
  clientId: string;
  /** Absent for a public client. */
  clientSecret?: string;
  fetch?: typeof fetch;
}

const subjects = new AsyncLocalStorage<string>();

/** Within `work`, tools get tokens for the person of this access token. */
export function actingFor<T>(subject: string, work: () => T): T {
  return subjects.run(subject, work);
}

export class Vault {
  readonly url: string;
  readonly #credentials: Credentials;
  readonly #kept = new Map<string, UpstreamToken>();

  constructor(url: string, credentials: Credentials) {
    this.url = url.replace(/\/+$/, "");
    this.#credentials = credentials;
  }

  /** A token of the person's account at a provider. Throws VaultRefused, or ConnectionNeeded with a link. */
  async token(audience: string, options: TokenOptions = {}): Promise<UpstreamToken> {
    const subject = options.subject ?? subjects.getStore();
    if (!subject) throw new Error("whose token? Pass `subject`, or work within `actingFor`");
    const form = new URLSearchParams({
      grant_type: EXCHANGE,
      subject_token: subject,
      subject_token_type: options.subjectType ?? ACCESS_TOKEN,
      audience,
    });
    if (options.scopes?.length) form.set("scope", [...options.scopes].sort().join(" "));
    if (options.account !== undefined) form.set("account", options.account);
    if (options.resource !== undefined) form.set("resource", options.resource);
    const key = createHash("sha256").update(form.toString()).digest("base64");
    const kept = this.#kept.get(key);
    if (!options.fresh && kept?.expiresAt != null && kept.expiresAt - MARGIN > Date.now()) return kept;
    const { clientId, clientSecret } = this.#credentials;
    const headers: Record<string, string> = {};
    if (clientSecret === undefined) form.set("client_id", clientId);
    else headers.authorization = basic(clientId, clientSecret);
    const ask = this.#credentials.fetch ?? fetch;
    const answer = await ask(`${this.url}/token`, { method: "POST", body: form, headers, redirect: "manual" });
    const content = (await answer.json().catch(() => ({}))) as Record<string, unknown>;
    if (!answer.ok || typeof content.access_token !== "string") {
      this.#kept.delete(key);
      throw refusalOf(answer, content);
    }
    const token = hideValue(content.access_token, {
      scopes: String(content.scope ?? "").split(" ").filter(Boolean),
      expiresAt: typeof content.expires_in === "number" ? Date.now() + content.expires_in * 1000 : null,
      narrowing: typeof content.narrowing === "string" ? content.narrowing : null,
      apiBaseUrl: typeof content.api_base_url === "string" ? content.api_base_url : null,
    });
    this.#kept.delete(key);
    this.#kept.set(key, token);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value as string);
    return token;
  }
}

function hideValue(value: string, facts: Omit<UpstreamToken, "value">): UpstreamToken {
  return Object.defineProperty({ ...facts }, "value", { get: () => value }) as UpstreamToken;
}

/** The Authorization header of a client with a secret (RFC 6749 §2.3.1). */
export function basic(clientId: string, clientSecret: string): string {
  const pair = `${encodeURIComponent(clientId)}:${encodeURIComponent(clientSecret)}`;
  return `Basic ${Buffer.from(pair).toString("base64")}`;
}

/** The text that an agent gets when its person must act first. */
export function explain(needed: ConnectionNeeded): string {
  return `Nothing was done: ${needed.description} Ask the person to open ${needed.connectUri} and then try again.`;
}

// What the generated Admin API client stands on: a service account's token, and one request.
import { basic, type Credentials } from "./index.js";
import { refusalOf } from "./refusals.js";

const MARGIN = 30_000; // milliseconds before its end in which a token is not used any more

interface Call {
  query?: Record<string, string | number | boolean | undefined>;
  body?: object;
  headers?: Record<string, string | undefined>;
}

export class AdminBase {
  readonly url: string;
  readonly #credentials: Credentials & { token?: () => Promise<string> };
  #held = { token: "", endsAt: 0 };

  /** A service account, or `token`: a function that returns an access token. */
  constructor(url: string, credentials: Credentials & { token?: () => Promise<string> }) {
    this.url = url.replace(/\/+$/, "");
    this.#credentials = credentials;
  }

  async #token(): Promise<string> {
    if (this.#credentials.token) return this.#credentials.token();
    if (this.#held.endsAt - MARGIN > Date.now()) return this.#held.token;
    const { clientId, clientSecret = "", fetch: ask = fetch } = this.#credentials;
    const answer = await ask(`${this.url}/token`, {
      method: "POST",
      body: new URLSearchParams({ grant_type: "client_credentials" }),
      headers: { authorization: basic(clientId, clientSecret) },
      redirect: "manual",
    });
    const content = (await answer.json().catch(() => ({}))) as Record<string, unknown>;
    if (!answer.ok || typeof content.access_token !== "string") throw refusalOf(answer, content);
    this.#held = { token: content.access_token, endsAt: Date.now() + Number(content.expires_in) * 1000 };
    return this.#held.token;
  }

  /** The answer's JSON or text. Throws VaultRefused with the problem's `code`. */
  protected async call(method: string, path: string, { query = {}, body, headers = {} }: Call = {}): Promise<unknown> {
    const given = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) if (value !== undefined) given.set(name, String(value));
    const sent: Record<string, string> = { authorization: `Bearer ${await this.#token()}` };
    for (const [name, value] of Object.entries(headers)) if (value !== undefined) sent[name] = value;
    if (body !== undefined) sent["content-type"] = "application/json";
    const ask = this.#credentials.fetch ?? fetch;
    const answer = await ask(`${this.url}${path}${given.size ? `?${given}` : ""}`, {
      method,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      redirect: "manual",
    });
    if (answer.status === 401) this.#held = { token: "", endsAt: 0 }; // it was revoked: the next call gets another one
    const type = answer.headers.get("content-type") ?? "";
    if (!answer.ok) throw refusalOf(answer, (await answer.json().catch(() => ({}))) as Record<string, unknown>);
    if (answer.status === 204) return undefined;
    return type.startsWith("application/json") && !type.includes("jsonl") ? answer.json() : answer.text();
  }
}

/** The ID as one part of a path. Throws for an ID that would make it the path of something else. */
export function pathPart(value: string | number): string {
  if (value === "" || value === "." || value === "..") throw new Error(`${JSON.stringify(value)} isn't an ID`);
  return encodeURIComponent(value);
}

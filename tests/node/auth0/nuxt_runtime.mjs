// What Nuxt's build provides for two names that @auth0/auth0-nuxt imports; `config` is the application's `runtimeConfig`.
import { registerHooks } from 'node:module';

export const config = { auth0: {}, public: { auth0: {} } };
globalThis.nuxtRuntimeConfig = config;

const behind = {
  '#imports': 'export const useRuntimeConfig = () => globalThis.nuxtRuntimeConfig;',
  'nitropack/dist/runtime/plugin': 'export const defineNitroPlugin = (plugin) => plugin;',
};

registerHooks({
  resolve(name, context, next) {
    return name in behind ? { url: `nuxt:${name}`, format: 'module', shortCircuit: true } : next(name, context);
  },
  load(url, context, next) {
    const name = url.startsWith('nuxt:') && url.slice('nuxt:'.length);
    return name ? { format: 'module', source: behind[name], shortCircuit: true } : next(url, context);
  },
});
